"""The sections of what a run trains and how, one for each component, with limits beside the
fields.

Those of the data are in `lcm.data.config`, that of the method in `lcm.methods.config`, those of
what is written in `lcm.config.output_sections`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lcm.adapter.names import LORA_TARGETS
from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.system.flags import Section, flag
from lcm.system.words import LARGEST_SEED, NO, YES

LR_SCHEDULERS = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "constant"),
    "constant_with_warmup",
)
"""Names of diffusers.optimization.SchedulerType, without the one that needs arguments."""


WARMUP = 10
"""Updates by which AdamW has seen enough gradients to know their size, at its beta2 of 0.99."""


def skipped(layers: Any) -> Any:
    """A value of clip_skip: leaving out 0 layers is leaving out none."""
    return None if layers == 0 else layers


@dataclass(frozen=True)
class TeacherConfig(Section):
    """The models to distil."""

    pretrained_teacher_model: str | None = flag(
        None,
        "the model to distil, an SD 1.x, SD 2.x or SDXL: a diffusers folder, a hub id or a single "
        ".safetensors file; must be given",
        aliases=("--pretrained_model_name_or_path",),
        is_place=True,
    )
    base_config: str | None = flag(
        None,
        "for a single file: a diffusers folder or hub id of the same kind of model; its weights "
        "are not read",
        is_place=True,
    )
    prediction_type: str | None = flag(
        None,
        "what the teacher's U-Net predicts, of a single file that does not say it of itself",
        choices=PREDICTION_TYPES,
        unset="as the model says; epsilon of a file that says nothing",
    )
    zero_terminal_snr: bool = flag(
        False,
        "the teacher was trained with zero terminal SNR, as most v_prediction models of SDXL were "
        "and not every file says of itself",
    )
    pretrained_vae_model_name_or_path: str | None = flag(
        None,
        "another VAE, for example an fp16-safe one for SDXL",
        unset="the teacher's own",
        is_place=True,
    )
    teacher_revision: str | None = flag(
        None, "hub revision of the teacher", aliases=("--revision",), unset="the newest"
    )
    variant: str | None = flag(None, "file variant of the teacher, for example fp16")
    clip_skip: int | None = flag(
        None,
        "last layers of the text encoders that are left out, as diffusers counts them: 1 is "
        '--clip_skip 2 of kohya\'s scripts and "Clip skip 2" of web UIs',
        at_least=0,
        at_most=100,
        unset="none are",
        read=skipped,
    )
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

    lora_rank: int = flag(64, "rank of every adapted layer", above=0, at_most=4096)
    lora_alpha: float | None = flag(
        None,
        "the adapter acts with strength alpha / rank",
        above=0,
        at_most=65504,  # the largest number of half precision, in which some programs keep it
        unset="the rank",
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
        "export an average of the trained weights with this decay per update, reached after some",
        at_least=0,
        below=1,
        unset="export that of the target; with target online the weights themselves, as with 0",
    )


@dataclass(frozen=True)
class OptimizerConfig(Section):
    """AdamW and its learning rate."""

    learning_rate: float | None = flag(
        None,
        "peak learning rate",
        aliases=("--lr",),
        above=0,
        at_most=1000.0,
        unset="1e-4 with the U-Net of SD and SDXL, more with a narrower one",
    )
    critic_learning_rate: float | None = flag(
        None,
        "peak learning rate of the critics of --terms",
        above=0,
        at_most=1000.0,
        unset="learning_rate",
    )
    lr_scheduler: str = flag(
        "constant_with_warmup",
        "how the learning rate changes over the run",
        choices=LR_SCHEDULERS,
    )
    lr_warmup_steps: int | None = flag(
        None,
        "updates over which the learning rate rises",
        at_least=0,
        at_most=10**9,
        unset="10; 0 with constant",
    )
    adam_beta1: float = flag(0.9, "AdamW's decay of the mean of gradients", at_least=0, below=1)
    adam_beta2: float = flag(
        0.99, "AdamW's decay of the mean of their squares", at_least=0, below=1
    )
    adam_weight_decay: float = flag(0.0, "AdamW's weight decay", at_least=0, at_most=1000.0)
    adam_epsilon: float = flag(
        1e-8, "what AdamW adds to the root of the mean square", above=0, at_most=1.0
    )
    use_8bit_adam: bool = flag(
        False, "keep AdamW's moments in 8 bits, a quarter of their memory; needs bitsandbytes"
    )
    # an infinite norm is how clipping is switched off
    max_grad_norm: float = flag(
        1.0, "gradients are clipped to this norm", above=0, may_be_infinite=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr_warmup_steps is None:
            steps = 0 if self.lr_scheduler == "constant" else WARMUP
            object.__setattr__(self, "lr_warmup_steps", steps)
        if self.lr_scheduler == "constant" and self.lr_warmup_steps:
            raise ValueError(
                "lr_warmup_steps has no effect with lr_scheduler constant; use constant_with_warmup"
            )

    @property
    def rate(self) -> float:
        """The learning rate of a run that is set up, which knows it by then."""
        assert self.learning_rate is not None
        return self.learning_rate

    @property
    def of_critics(self) -> OptimizerConfig:
        """The same for what learns against the student."""
        return replace(self, learning_rate=self.critic_learning_rate or self.rate)


def checkpointing_mode(word: object) -> object:
    """A value of gradient_checkpointing, which is a switch in other scripts."""
    text = str(word).lower()
    if text in YES:
        return "full"
    return "no" if text in NO else word


@dataclass(frozen=True)
class LoopConfig(Section):
    """How many updates on how many samples, and on what machine."""

    plugin: list[str] = flag(
        [],
        "modules or .py files that add methods, losses, solvers, sources or metrics of your own",
        may_be_empty=True,
        is_free=True,
        is_place=True,
        is_optional=True,
    )
    seed: int = flag(
        0, "all random numbers of the run follow from it", at_least=0, at_most=LARGEST_SEED
    )
    train_batch_size: int = flag(
        16, "samples per process and forward pass", above=0, at_most=100_000, is_free=True
    )
    gradient_accumulation_steps: int = flag(
        1, "forward passes per update", above=0, at_most=1_000_000, is_free=True
    )
    max_train_steps: int = flag(1000, "updates", above=0, at_most=10**9)
    num_train_epochs: int | None = flag(
        None,
        "instead of max_train_steps: passes over the data",
        above=0,
        at_most=1_000_000,
        unset="as many as max_train_steps need",
    )
    # it recomputes what it would have kept, bit for bit
    gradient_checkpointing: str = flag(
        "no",
        "full, the bare flag: recompute activations, least memory, a fifth slower; selective: only "
        "what is cheap to recompute",
        choices=("no", "selective", "full"),
        bare="full",
        read=checkpointing_mode,
        is_free=True,
    )
    mixed_precision: str = flag(
        "no",
        "precision of the frozen weights and of compute",
        choices=("no", "fp16", "bf16"),
    )
    allow_tf32: bool = flag(False, "TF32 matrix products on recent GPUs")
    dataloader_num_workers: int = flag(
        0, "processes that decode images", at_least=0, at_most=1024, is_free=True
    )
    dry_run: bool = flag(
        False,
        "try all of it, write nothing: what the run takes of time, memory and disk, and what to do "
        "if it does not fit",
        is_free=True,
    )
