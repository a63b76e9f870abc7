"""The configuration of a run: one flat dataclass, filled from --config file.yaml and flags; flags
win.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers.optimization import SchedulerType
from transformers import HfArgumentParser

from lcm.adapter.lora import LORA_TARGETS
from lcm.data.config import WHAT, DataConfig
from lcm.diffusion.losses import Loss, l2
from lcm.diffusion.schedule import NoiseSchedule
from lcm.methods import Method, ObjectiveConfig, resolve
from lcm.models.styles import Style
from lcm.system.registry import closest

DROPPED_FLAGS = {
    "train_shards_path_or_url": (
        "webdataset for tar shards on this machine, dataset_name for a data set on the hub"
    ),
    "use_fix_crop_and_size": (
        "nothing: SDXL is told how each image was cut; center_crop cuts all alike"
    ),
    "encode_batch_size": (
        "nothing: the VAE encodes one picture at a time; cache_latents encodes each once"
    ),
    "vae_encode_batch_size": (
        "nothing: the VAE encodes one picture at a time; cache_latents encodes each once"
    ),
    "scale_lr": (
        "learning_rate: it is the rate itself, whatever the batch and the number of processes"
    ),
    "w_min": "guidance_scale_min, which is w_min + 1",
    "w_max": "guidance_scale_max, which is w_max + 1",
    "validation_prompt": "validation_prompts",
    "num_validation_images": (
        "validation_prompts (one row each) and validation_num_steps (one column each)"
    ),
    "enable_xformers_memory_efficient_attention": "nothing: PyTorch's own attention is always used",
    "local_rank": "nothing: accelerate launch sets it",
    "hub_token": (
        "`hf auth login`, or HF_TOKEN in the environment: on the command line a token "
        "ends in the shell's history"
    ),
    "cast_teacher_unet": "mixed_precision: teacher and student share one U-Net",
}
"""Flags of other training scripts and what to use here."""

FREE_TO_CHANGE = frozenset(
    [
        "output_dir",
        "resume_from_checkpoint",
        "dry_run",
        "checkpointing_steps",
        "checkpoints_total_limit",
        "validation_steps",
        "validation_prompts",
        "validation_num_steps",
        "validation_seed",
        "report_to",
        "tracker_project_name",
        "license",
        "push_to_hub",
        "hub_model_id",
        "hub_private",
        "logging_dir",
        "logging_steps",
        "dataloader_num_workers",
        "train_batch_size",
        "gradient_accumulation_steps",
        "gradient_checkpointing",  # recomputes what it would have kept, bit for bit
        "cache_dir",
        "trajectory_dir",
        "latent_cache_dir",
        "streaming",
        *WHAT,  # where the data lies; whether they are the same is compared on its own
    ]
)
"""Fields that a resumed run may change: they do not touch the path of training. Of batch size and
accumulation the product with the number of processes counts, and that is compared on its own.
"""

PLACES = frozenset(
    [
        *(
            "output_dir",
            "resume_from_checkpoint",
            "logging_dir",
            "cache_dir",
            "trajectory_dir",
            "latent_cache_dir",
            *WHAT,
        ),
        *(
            "pretrained_teacher_model",
            "base_config",
            "pretrained_vae_model_name_or_path",
            "init_adapter",
        ),
        *("teacher_lora", "extra_teachers"),
    ]
)
"""Fields that name files: the processes of one run may differ in them, since machines do."""


CHOICES: dict[str, tuple[str | None, ...]] = {
    "gradient_checkpointing": ("no", "selective", "full"),
    "mixed_precision": ("no", "fp16", "bf16"),
    "lr_scheduler": tuple(s.value for s in SchedulerType if s.value != "piecewise_constant"),
}
TRACKERS = ("tensorboard", "wandb", "trackio")
"""Packages that --report_to may name."""
YES_NO = dict.fromkeys(("true", "yes", "t", "y", "1"), "full") | dict.fromkeys(
    ("false", "no", "f", "n", "0"), "no"
)
"""What the words of a switch mean for gradient_checkpointing."""
MAY_BE_ZERO = (
    "lr_warmup_steps",
    "dataloader_num_workers",
    "seed",
    "validation_seed",
    "adam_weight_decay",
    "proportion_empty_prompts",
    "lora_dropout",
    "landing_jitter",
    "eta",
    "tangent_warmup",
)
MAY_BE_EMPTY = (
    "validation_prompts",
    "landing_steps",
    "report_to",
    "teacher_lora",
    "extra_teachers",
)
BELOW_ONE = ("ema_decay", "export_ema_decay", "adam_beta1", "adam_beta2", "lora_dropout")


def check_range(name: str, value: object) -> None:
    """Numbers are finite and positive unless listed above, lists are not empty unless that has a
    meaning.
    """
    if isinstance(value, list) and not value and name not in MAY_BE_EMPTY:
        raise ValueError(f"{name} must not be empty; leave it out for its default")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if (
        not math.isfinite(value) and name != "max_grad_norm"
    ):  # an infinite norm is how clipping is switched off
        raise ValueError(f"{name} must be a finite number; got {value}")
    if name in BELOW_ONE:
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name} must lie in 0..1, 1 excluded; got {value}")
    elif name in MAY_BE_ZERO:
        if value < 0:
            raise ValueError(f"{name} must not be negative; got {value}")
    elif value <= 0:
        raise ValueError(f"{name} must be positive; got {value}")


@dataclass
class TrainConfig(ObjectiveConfig, DataConfig):
    """Everything a run depends on."""

    pretrained_teacher_model: str | None = field(
        default=None,
        metadata={
            "help": (
                "the model to distil, an SD 1.x, SD 2.x or SDXL: a diffusers folder, a hub id "
                "or a single .safetensors file"
            ),
            "aliases": ["--pretrained_model_name_or_path"],
        },
    )
    base_config: str | None = field(
        default=None,
        metadata={
            "help": (
                "for a single file: a diffusers folder or hub id of the same kind of model; "
                "its weights are not read"
            )
        },
    )
    pretrained_vae_model_name_or_path: str | None = field(
        default=None, metadata={"help": "another VAE, for example an fp16-safe one for SDXL"}
    )
    teacher_revision: str | None = field(
        default=None, metadata={"help": "hub revision of the teacher", "aliases": ["--revision"]}
    )
    variant: str | None = field(
        default=None, metadata={"help": "file variant of the teacher, for example fp16"}
    )
    teacher_lora: list[str] = field(
        default_factory=list,
        metadata={
            "help": (
                "style LoRAs that become part of the teacher, each PATH or PATH=WEIGHT: file, "
                "folder or hub id"
            )
        },
    )
    extra_teachers: list[str] = field(
        default_factory=list,
        metadata={
            "help": (
                "further models of the teacher's architecture; every update is made on one of "
                "them all, in turn"
            )
        },
    )

    lora_rank: int = field(default=64, metadata={"help": "rank of every adapted layer"})
    lora_alpha: float | None = field(
        default=None,
        metadata={"help": "the adapter acts with strength alpha / rank; default: rank"},
    )
    lora_target_modules: list[str] = field(
        default_factory=lambda: list(LORA_TARGETS),
        metadata={"help": "name endings of the adapted layers"},
    )
    lora_dropout: float = field(
        default=0.0,
        metadata={"help": "dropout inside the adapter, the same mask for student and target"},
    )
    full_finetune: bool = field(
        default=False,
        metadata={
            "help": (
                "train the whole U-Net instead of an adapter; output_dir/unet is then the result"
            )
        },
    )
    w_embedding: bool = field(
        default=False,
        metadata={
            "help": (
                "with full_finetune: tell the U-Net the guidance scale, as "
                "LatentConsistencyModelPipeline does"
            )
        },
    )
    init_adapter: str | None = field(
        default=None,
        metadata={
            "help": (
                "start from this adapter (file, output folder or hub id) instead of from nothing"
            )
        },
    )
    export_ema_decay: float | None = field(
        default=None,
        metadata={"help": "give away an average of the trained weights with this decay per update"},
    )

    output_dir: str = field(default="lcm-lora", metadata={"help": "where everything is written"})
    seed: int = field(default=0, metadata={"help": "all random numbers of the run follow from it"})
    train_batch_size: int = field(
        default=16, metadata={"help": "samples per process and forward pass"}
    )
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "forward passes per update"}
    )
    max_train_steps: int = field(default=1000, metadata={"help": "updates"})
    num_train_epochs: int | None = field(
        default=None, metadata={"help": "instead of max_train_steps: passes over the data"}
    )
    gradient_checkpointing: str = field(
        default="no",
        metadata={
            "help": (
                "full: recompute activations, least memory, a fifth slower; selective: only "
                "what is cheap to recompute; no"
            ),
            "nargs": "?",
            "const": "full",
        },
    )
    mixed_precision: str = field(
        default="no",
        metadata={"help": "no, fp16 or bf16: precision of the frozen weights and of compute"},
    )
    allow_tf32: bool = field(
        default=False, metadata={"help": "TF32 matrix products on recent GPUs"}
    )
    learning_rate: float = field(
        default=1e-4, metadata={"help": "peak learning rate", "aliases": ["--lr"]}
    )
    lr_scheduler: str = field(
        default="constant", metadata={"help": "a name of diffusers.optimization.get_scheduler"}
    )
    lr_warmup_steps: int = field(
        default=0, metadata={"help": "updates over which the learning rate rises"}
    )
    adam_beta1: float = field(default=0.9, metadata={"help": "AdamW"})
    adam_beta2: float = field(default=0.999, metadata={"help": "AdamW"})
    adam_weight_decay: float = field(default=0.0, metadata={"help": "AdamW"})
    adam_epsilon: float = field(default=1e-8, metadata={"help": "AdamW"})
    use_8bit_adam: bool = field(
        default=False,
        metadata={
            "help": "keep AdamW's moments in 8 bits, a quarter of their memory; needs bitsandbytes"
        },
    )
    max_grad_norm: float = field(
        default=1.0, metadata={"help": "gradients are clipped to this norm"}
    )

    dataloader_num_workers: int = field(
        default=0, metadata={"help": "processes that decode images"}
    )
    checkpointing_steps: int = field(default=500, metadata={"help": "updates between checkpoints"})
    checkpoints_total_limit: int | None = field(
        default=None, metadata={"help": "keep only the newest so many checkpoints"}
    )
    resume_from_checkpoint: str = field(
        default="latest",
        metadata={
            "help": (
                "latest: go on from the newest checkpoint in output_dir, start afresh where "
                "there is none; or a folder"
            )
        },
    )
    validation_prompts: list[str] = field(
        default_factory=list,
        metadata={"help": "prompts of the validation grid; default: four captions"},
    )
    validation_steps: int = field(
        default=500,
        metadata={"help": "updates between validation grids; the first is drawn before training"},
    )
    validation_num_steps: list[int] = field(
        default_factory=lambda: [1, 2, 4, 8],
        metadata={"help": "inference steps of the grid's columns"},
    )
    validation_seed: int = field(default=0, metadata={"help": "seed of every validation picture"})
    logging_steps: int = field(
        default=10, metadata={"help": "updates between lines in metrics.jsonl"}
    )
    report_to: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"also log to some of {', '.join(TRACKERS)}; none: to nothing, the default"
        },
    )
    tracker_project_name: str = field(
        default="lcm", metadata={"help": "project that the trackers file the run under"}
    )
    logging_dir: str = field(
        default="logs", metadata={"help": "folder of the trackers' files inside output_dir"}
    )
    license: str | None = field(
        default=None,
        metadata={
            "help": (
                "licence that the card gives, as the hub spells it (openrail++); default: the "
                "card gives none"
            )
        },
    )
    push_to_hub: bool = field(
        default=False,
        metadata={
            "help": (
                "upload weights and card at the end; whether that is allowed is asked at the start"
            )
        },
    )
    hub_model_id: str | None = field(
        default=None,
        metadata={
            "help": "with push_to_hub: someone/name; default: the name of output_dir among your own"
        },
    )
    hub_private: bool = field(
        default=False, metadata={"help": "with push_to_hub: make the repository private"}
    )
    dry_run: bool = field(
        default=False,
        metadata={
            "help": (
                "try all of it, write nothing: what the run takes of time, memory and disk, "
                "and what to do if it does not fit"
            )
        },
    )

    def __post_init__(self) -> None:
        """Raises ValueError that names the flag and the fix."""
        if not self.pretrained_teacher_model:
            raise ValueError(
                "--pretrained_teacher_model is missing; pass a diffusers folder, a .safetensors "
                "file or a hub id"
            )
        method = resolve(self)
        # it was a yes or no once, and is so in other scripts
        self.gradient_checkpointing = YES_NO.get(
            str(self.gradient_checkpointing).lower(), self.gradient_checkpointing
        )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(str, choices))}; got "
                    f"{getattr(self, name)!r}"
                )
        self._check_trackers()
        if not self.push_to_hub and (self.hub_model_id is not None or self.hub_private):
            raise ValueError(
                "hub_model_id and hub_private have no effect without --push_to_hub; pass it too"
            )
        for f in fields(self):
            if getattr(self, f.name) is not None:
                check_range(f.name, getattr(self, f.name))
        self.check_data()
        self._check_method(method)
        self._check_network(method)
        if self.lr_scheduler == "constant" and self.lr_warmup_steps:
            raise ValueError(
                "lr_warmup_steps has no effect with lr_scheduler constant; use constant_with_warmup"
            )
        most = int(
            str(
                method.play(self).scheduler_config.get("original_inference_steps")
                or self.num_ddim_timesteps
                or 1000
            )
        )
        if not all(1 <= n <= most for n in self.validation_num_steps):
            raise ValueError(
                f"validation_num_steps must lie in 1..{most}, the solver steps of training"
            )

    def _check_trackers(self) -> None:
        """Raises ValueError for what is no tracker, or no name for a project."""
        if self.report_to == ["none"]:
            self.report_to = []
        if (
            "all" in self.report_to
        ):  # which ones are installed, and upload, should not decide what a run does
            raise ValueError(
                f"report_to: all is not offered; name those you want, of {', '.join(TRACKERS)}"
            )
        unknown = [name for name in self.report_to if name not in TRACKERS]
        if unknown:
            raise ValueError(
                f"report_to must be some of {', '.join(TRACKERS)}, or none alone; got "
                f"{unknown[0]!r}"
            )
        if not re.fullmatch(
            r"[\w.-]*\w[\w.-]*", self.tracker_project_name
        ):  # it becomes a folder, and a part of an address
            raise ValueError(
                "tracker_project_name may have letters, digits, dots, dashes and underscores; got "
                f"{self.tracker_project_name!r}"
            )

    def _check_method(self, method: Method) -> None:
        """Raises ValueError where the method, the data and the network do not go together."""
        # every Stable Diffusion has 1000 timesteps: a composition that cannot work is refused
        # before anything is loaded
        method.build(
            self,
            NoiseSchedule.from_alphas_cumprod(torch.linspace(0.999, 0.005, 1000), "epsilon"),
            loss=self.probe_loss,
        )
        if self.loss_type == "lpips" and not method.lands_clean:
            raise ValueError(
                f"loss_type lpips compares pictures, and objective {self.objective} lands on noisy "
                "latents; use huber"
            )
        if method.from_trajectories and self.prompts_file is None:
            raise ValueError(
                f"objective {self.objective} learns from the teacher's own trajectories; pass "
                "--prompts_file instead of images"
            )
        if self.prompts_file is not None and not method.has_teacher:
            raise ValueError(
                f"objective {self.objective} has no teacher to draw trajectories with; pass "
                "images, or choose another objective"
            )
        if self.preserve_cfg and self.prompts_file is not None:
            raise ValueError(
                "preserve_cfg needs empty prompts, and a trajectory belongs to its own prompt; "
                "pass images instead"
            )
        if self.preserve_cfg and self.proportion_empty_prompts == 0:
            raise ValueError(
                "preserve_cfg needs empty prompts to learn from; pass --proportion_empty_prompts "
                "0.1"
            )

    def _check_network(self, method: Method) -> None:
        """Raises ValueError where what is trained and the other flags do not go together."""
        if self.w_embedding and not self.full_finetune:
            raise ValueError(
                "w_embedding adds a layer to the U-Net, which an adapter cannot carry; pass "
                "--full_finetune too"
            )
        if self.w_embedding and (method.from_trajectories or not method.has_teacher):
            raise ValueError(
                f"w_embedding: objective {self.objective} does not know the guidance of a sample; "
                "use lcm or pcm"
            )
        if self.guidance_per_phase and (self.w_embedding or self.prompts_file is not None):
            raise ValueError(
                "guidance_per_phase changes the guidance on the way down, which neither a "
                "w_embedding nor a cached trajectory knows; leave one of them out"
            )
        if self.w_embedding and self.preserve_cfg:
            raise ValueError(
                "w_embedding tells the U-Net a guidance that preserve_cfg leaves to the pipeline; "
                "pass one of them"
            )
        if self.full_finetune and self.extra_teachers:
            raise ValueError(
                "extra_teachers: an adapter is trained on the weights of several models, "
                "full_finetune trains those of one; leave one of the two out"
            )
        if self.full_finetune and self.tangent_mode == "jvp" and self.mixed_precision != "no":
            raise ValueError(
                "tangent_mode jvp cannot differentiate through autocast; use fd, or "
                "--mixed_precision no"
            )
        if self.full_finetune:
            own = {
                "lora_rank": 64,
                "lora_alpha": None,
                "lora_target_modules": list(LORA_TARGETS),
                "lora_dropout": 0.0,
                "init_adapter": None,
            }
            for name, default in own.items():
                if getattr(self, name) != default:
                    raise ValueError(f"{name} has no effect with full_finetune; leave it out")

    def without_effect(self) -> dict[str, str]:
        """As for the objective alone, but for the trajectories of prompts, which are drawn with the
        solver.
        """
        flags = super().without_effect()
        if self.prompts_file is not None:
            flags.pop("solver", None)
        return flags

    @property
    def styles(self) -> list[Style]:
        """Of --teacher_lora."""
        return [Style.parse(text) for text in self.teacher_lora]

    @property
    def uses_progress(self) -> bool:
        """Whether the objective changes over the run."""
        return (
            bool(self.tangent_warmup)
            or self.discretization in ("refined", "ect")
            or bool(self.segments)
        )

    @property
    def probe_loss(self) -> Loss | None:
        """Stands for the one loss that needs a loaded model."""
        return l2 if self.loss_type == "lpips" else None

    def to_yaml(self) -> str:
        return yaml.safe_dump(asdict(self), sort_keys=True, allow_unicode=True)

    def changes(self) -> dict[str, Any]:
        """The settings that are not what the method has by itself."""
        needed = {
            name: getattr(self, name) for name in ("pretrained_teacher_model", "objective", *WHAT)
        }
        plain = asdict(TrainConfig(**needed))
        own = {f.name: f.default for f in fields(self) if f.name in needed}
        return {
            name: value for name, value in asdict(self).items() if value != {**plain, **own}[name]
        }

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Fields that shape the training and differ from an earlier configuration: "name: theirs ->
        ours".

        A field that an older version did not have counts as its default, which is what that version
        did.
        """
        theirs = {
            f.name: f.default_factory() if callable(f.default_factory) else f.default
            for f in fields(self)
        } | other
        free = FREE_TO_CHANGE | self.without_effect().keys()
        # only where nothing follows the run's progress does its length not shape the steps already
        # made
        if self.lr_scheduler.startswith("constant") and not self.uses_progress:
            free |= {"max_train_steps", "num_train_epochs"}
        return [
            f"{name}: {theirs[name]} -> {value}"
            for name, value in sorted(asdict(self).items())
            if name not in free and str(theirs[name]).rstrip("/") != str(value).rstrip("/")
        ]


def spellings() -> dict[str, str]:
    """Every accepted key, aliases included -> field name."""
    names = {f.name: f.name for f in fields(TrainConfig)}
    for f in fields(TrainConfig):
        names |= {alias.lstrip("-"): f.name for alias in f.metadata.get("aliases", [])}
    return names


def unknown_key(name: str, where: str) -> ValueError:
    if name in DROPPED_FLAGS:
        return ValueError(f"unknown {where} {name!r}: use {DROPPED_FLAGS[name]}")
    return ValueError(f"unknown {where} {name!r}.{closest(name, spellings())}")


class PlainLoader(yaml.SafeLoader):
    """Leaves every scalar but null a string, so that `no` and `0123` mean what they mean as
    flags.
    """


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":null")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as parser defaults. Scalars become strings, so that the parser converts them as
    it does flags: PyYAML itself reads `2e-5` as a string. Raises FileNotFoundError, or ValueError
    for bad YAML and unknown keys.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--config: there is no file {path}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=PlainLoader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"--config: {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"--config: {path} must hold `name: value` lines")
    kinds = {"list[int]": int, "list[float]": float, "list[str]": str}
    types = {f.name: str(f.type).removesuffix(" | None") for f in fields(TrainConfig)}
    lists = {name: kinds[text] for name, text in types.items() if text in kinds}
    defaults: dict[str, Any] = {}
    for key, value in content.items():
        name = spellings().get(str(key).replace("-", "_"))
        if name is None:
            raise unknown_key(str(key).replace("-", "_"), f"key in {path}")
        if value is None:
            continue
        if name in lists:
            try:
                defaults[name] = [
                    lists[name](item) for item in (value if isinstance(value, list) else [value])
                ]
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: {key}: {error}") from error
        elif isinstance(value, list | dict):
            raise ValueError(f"{path}: {key} takes one value; got {value}")
        else:
            defaults[name] = str(value)
    return defaults


def parse_config(argv: Sequence[str] | None = None) -> TrainConfig:
    """Flags over --config file over defaults. Raises ValueError for anything unknown or
    contradictory.
    """
    parser = HfArgumentParser(
        TrainConfig, prog="train_lcm_lora.py", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML file with any of these flags; flags on the command line win",
    )
    known, unknown = parser.parse_known_args(argv)
    for word in unknown:
        if word.startswith("-"):
            raise unknown_key(word.lstrip("-").split("=")[0].replace("-", "_"), "flag")
        raise ValueError(f"unexpected word {word!r} on the command line; values follow a --flag")
    if known.config is not None:
        parser.set_defaults(**read_yaml(known.config))
        known = parser.parse_args(argv)
    values = vars(known)
    values.pop("config")
    return TrainConfig(**values)
