"""The sections of a run's configuration: one for each component, with limits beside the fields.

Those of the data are in `lcm.data.config`, that of the method in `lcm.methods.config`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lcm.adapter.names import LORA_TARGETS
from lcm.system.flags import Section, flag

TRACKERS = ("tensorboard", "wandb", "trackio")
"""Packages that --report_to may name."""
LR_SCHEDULERS = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "constant"),
    "constant_with_warmup",
)
"""Names of diffusers.optimization.SchedulerType, without the one that needs arguments."""
SWITCH = dict.fromkeys(("true", "yes", "t", "y", "1"), "full") | dict.fromkeys(
    ("false", "no", "f", "n", "0"), "no"
)
"""What the words of a switch mean for gradient_checkpointing, which is one in other scripts."""


@dataclass(frozen=True)
class TeacherConfig(Section):
    """The models to distil."""

    pretrained_teacher_model: str | None = flag(
        None,
        "the model to distil, an SD 1.x, SD 2.x or SDXL: a diffusers folder, a hub id or a single "
        ".safetensors file",
        aliases=("--pretrained_model_name_or_path",),
        is_place=True,
    )
    base_config: str | None = flag(
        None,
        "for a single file: a diffusers folder or hub id of the same kind of model; its weights "
        "are not read",
        is_place=True,
    )
    pretrained_vae_model_name_or_path: str | None = flag(
        None, "another VAE, for example an fp16-safe one for SDXL", is_place=True
    )
    teacher_revision: str | None = flag(
        None, "hub revision of the teacher", aliases=("--revision",)
    )
    variant: str | None = flag(None, "file variant of the teacher, for example fp16")
    teacher_lora: list[str] = flag(
        [],
        "style LoRAs that become part of the teacher, each PATH or PATH=WEIGHT: file, folder or "
        "hub id",
        may_be_empty=True,
        is_place=True,
    )
    extra_teachers: list[str] = flag(
        [],
        "further models of the teacher's architecture; every update is made on one of them all, in "
        "turn",
        may_be_empty=True,
        is_place=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pretrained_teacher_model:
            raise ValueError(
                "--pretrained_teacher_model is missing; pass a diffusers folder, a .safetensors "
                "file or a hub id"
            )

    @property
    def path(self) -> str:
        """The teacher as it was named."""
        return str(self.pretrained_teacher_model)


@dataclass(frozen=True)
class AdapterConfig(Section):
    """What is trained: an adapter, or with `full_finetune` the whole U-Net."""

    lora_rank: int = flag(64, "rank of every adapted layer", above=0)
    lora_alpha: float | None = flag(
        None, "the adapter acts with strength alpha / rank; default: rank", above=0
    )
    lora_target_modules: list[str] = flag(list(LORA_TARGETS), "name endings of the adapted layers")
    lora_dropout: float = flag(
        0.0,
        "dropout inside the adapter, the same mask for student and target",
        at_least=0,
        below=1,
    )
    full_finetune: bool = flag(
        False,
        "train the whole U-Net instead of an adapter; output_dir/unet is then the result",
    )
    w_embedding: bool = flag(
        False,
        "with full_finetune: tell the U-Net the guidance scale, as LatentConsistencyModelPipeline "
        "does",
    )
    init_adapter: str | None = flag(
        None,
        "start from this adapter (file, output folder or hub id) instead of from nothing",
        is_place=True,
    )
    export_ema_decay: float | None = flag(
        None,
        "give away an average of the trained weights with this decay per update",
        at_least=0,
        below=1,
    )


@dataclass(frozen=True)
class OptimizerConfig(Section):
    """AdamW and its learning rate."""

    learning_rate: float = flag(1e-4, "peak learning rate", aliases=("--lr",), above=0)
    lr_scheduler: str = flag(
        "constant", "a name of diffusers.optimization.get_scheduler", choices=LR_SCHEDULERS
    )
    lr_warmup_steps: int = flag(0, "updates over which the learning rate rises", at_least=0)
    adam_beta1: float = flag(0.9, "AdamW", at_least=0, below=1)
    adam_beta2: float = flag(0.999, "AdamW", at_least=0, below=1)
    adam_weight_decay: float = flag(0.0, "AdamW", at_least=0)
    adam_epsilon: float = flag(1e-8, "AdamW", above=0)
    use_8bit_adam: bool = flag(
        False, "keep AdamW's moments in 8 bits, a quarter of their memory; needs bitsandbytes"
    )
    # an infinite norm is how clipping is switched off
    max_grad_norm: float = flag(
        1.0, "gradients are clipped to this norm", above=0, may_be_infinite=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr_scheduler == "constant" and self.lr_warmup_steps:
            raise ValueError(
                "lr_warmup_steps has no effect with lr_scheduler constant; use constant_with_warmup"
            )


@dataclass(frozen=True)
class LoopConfig(Section):
    """How many updates on how many samples, and on what machine."""

    seed: int = flag(0, "all random numbers of the run follow from it", at_least=0)
    train_batch_size: int = flag(16, "samples per process and forward pass", above=0, is_free=True)
    gradient_accumulation_steps: int = flag(1, "forward passes per update", above=0, is_free=True)
    max_train_steps: int = flag(1000, "updates", above=0)
    num_train_epochs: int | None = flag(
        None, "instead of max_train_steps: passes over the data", above=0
    )
    # it recomputes what it would have kept, bit for bit
    gradient_checkpointing: str = flag(
        "no",
        "full: recompute activations, least memory, a fifth slower; selective: only what is cheap "
        "to recompute; no",
        choices=("no", "selective", "full"),
        bare="full",
        read=lambda word: SWITCH.get(str(word).lower(), word),
        is_free=True,
    )
    mixed_precision: str = flag(
        "no",
        "no, fp16 or bf16: precision of the frozen weights and of compute",
        choices=("no", "fp16", "bf16"),
    )
    allow_tf32: bool = flag(False, "TF32 matrix products on recent GPUs")
    dataloader_num_workers: int = flag(0, "processes that decode images", at_least=0, is_free=True)
    dry_run: bool = flag(
        False,
        "try all of it, write nothing: what the run takes of time, memory and disk, and what to do "
        "if it does not fit",
        is_free=True,
    )


@dataclass(frozen=True)
class ValidationConfig(Section):
    """The grids of pictures that a run draws."""

    validation_prompts: list[str] = flag(
        [],
        "prompts of the validation grid; default: four captions",
        may_be_empty=True,
        is_free=True,
    )
    validation_steps: int = flag(
        500,
        "updates between validation grids; the first is drawn before training",
        above=0,
        is_free=True,
    )
    validation_num_steps: list[int] = flag(
        [1, 2, 4, 8], "inference steps of the grid's columns", is_free=True
    )
    validation_seed: int = flag(0, "seed of every validation picture", at_least=0, is_free=True)


def plain_name(name: str) -> str:
    """A project's name, which becomes a folder and a part of an address. Raises ValueError."""
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
        raise ValueError(
            "tracker_project_name may have letters, digits, dots, dashes and underscores; got "
            f"{name!r}"
        )
    return name


def known_trackers(names: list[str]) -> list[str]:
    """The packages of --report_to, none for "none" alone. Raises ValueError for others."""
    if names == ["none"]:
        return []
    if "all" in names:  # which ones are installed, and upload, should not decide what a run does
        raise ValueError(
            f"report_to: all is not offered; name those you want, of {', '.join(TRACKERS)}"
        )
    if unknown := [name for name in names if name not in TRACKERS]:
        raise ValueError(
            f"report_to must be some of {', '.join(TRACKERS)}, or none alone; got {unknown[0]!r}"
        )
    return names


@dataclass(frozen=True)
class OutputConfig(Section):
    """What is written, where and how often."""

    output_dir: str = flag("lcm-lora", "where everything is written", is_free=True, is_place=True)
    checkpointing_steps: int = flag(500, "updates between checkpoints", above=0, is_free=True)
    checkpoints_total_limit: int | None = flag(
        None, "keep only the newest so many checkpoints", above=0, is_free=True
    )
    resume_from_checkpoint: str = flag(
        "latest",
        "latest: go on from the newest checkpoint in output_dir, start afresh where there is none; "
        "or a folder",
        is_free=True,
        is_place=True,
    )
    logging_steps: int = flag(10, "updates between lines in metrics.jsonl", above=0, is_free=True)
    report_to: list[str] = flag(
        [],
        f"also log to some of {', '.join(TRACKERS)}; none: to nothing, the default",
        may_be_empty=True,
        read=known_trackers,
        is_free=True,
    )
    tracker_project_name: str = flag(
        "lcm", "project that the trackers file the run under", read=plain_name, is_free=True
    )
    logging_dir: str = flag(
        "logs",
        "folder of the trackers' files inside output_dir",
        is_free=True,
        is_place=True,
    )

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.output_dir)


@dataclass(frozen=True)
class HubConfig(Section):
    """What the hub gets, and is told."""

    license: str | None = flag(
        None,
        "licence that the card gives, as the hub spells it (openrail++); default: the card gives "
        "none",
        is_free=True,
    )
    push_to_hub: bool = flag(
        False,
        "upload weights and card at the end; whether that is allowed is asked at the start",
        is_free=True,
    )
    hub_model_id: str | None = flag(
        None,
        "with push_to_hub: someone/name; default: the name of output_dir among your own",
        is_free=True,
    )
    hub_private: bool = flag(False, "with push_to_hub: make the repository private", is_free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.push_to_hub and (self.hub_model_id is not None or self.hub_private):
            raise ValueError(
                "hub_model_id and hub_private have no effect without --push_to_hub; pass it too"
            )
