"""Values for every option, and the files and command lines that state them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lcm.config import run
from lcm.config.command_line import parse_config
from lcm.config.run import TrainConfig
from lcm.methods import METHODS
from lcm.methods.config import FLAGS, flags_of
from tests.support.runs import words

BASE = {"pretrained_teacher_model": "teacher", "train_data_dir": "images"}


VALUES: dict[str, Any] = {
    "train_data_dir": "other images",
    "dataset_name": "someone/pictures",
    "parquet_files": "rows/*.parquet",
    "webdataset": "shards/{000..012}.tar",
    "dataset_config_name": "small",
    "image_column": "picture",
    "caption_column": "caption",
    "max_train_samples": 12,
    "resolution": 768,
    "center_crop": True,
    "random_flip": True,
    "interpolation_type": "bicubic",
    "proportion_empty_prompts": 0.25,
    "long_prompts": "chunks",
    "cache_dir": "my cache",
    "aspect_ratio_buckets": True,
    "cache_latents": True,
    "cache_variants": 3,
    "latent_cache_dir": "my latents",
    "streaming": True,
    "prompts_file": "prompts.txt",
    "trajectories_per_prompt": 2,
    "trajectory_dir": "my trajectories",
    "objective": "cd",
    "num_ddim_timesteps": 100,
    "solver": "heun",
    "solver_steps": 3,
    "coupling": "same_noise",
    "loss_type": "l1",
    "huber_c": 0.01,
    "weighting": "min_snr",
    "snr_gamma": 2.0,
    "guidance_scale": 1.5,
    "guidance_scale_min": 3.0,
    "guidance_scale_max": 13.0,
    "guidance_per_phase": [5.0, 1.5],
    "preserve_cfg": True,
    "timestep_scaling_factor": 5.0,
    "skipping_steps": 2,
    "simulated_play": 0.25,
    "simulated_play_warmup_steps": 50,
    "phases": 2,
    "segments": [4, 1],
    "landing_steps": [2, 4],
    "landing_jitter": 0.2,
    "landing_window": 300,
    "rollout_steps": [1, 8],
    "eta": 0.25,
    "discretization": "fixed",
    "first_ddim_timesteps": 20,
    "ect_q": 4.0,
    "ect_k": 2.0,
    "ect_b": 0.5,
    "ect_stages": 4,
    "time_distribution": "lognormal",
    "lognormal_mean": -0.5,
    "lognormal_std": 1.5,
    "ema_schedule": "cm",
    "tangent_mode": "jvp",
    "tangent_step": 3,
    "tangent_warmup": 0.4,
    "tangent_normalization": 0.2,
    "learned_weight": True,
    "injection": 0.7,
    "as_control": True,
    "pretrained_teacher_model": "someone/teacher",
    "base_config": "someone/base",
    "pretrained_vae_model_name_or_path": "someone/vae",
    "teacher_revision": "123",
    "variant": "fp16",
    "clip_skip": 1,
    "prediction_type": "v_prediction",
    "zero_terminal_snr": True,
    "teacher_lora": ["someone/ink=0.8", "styles/oil.safetensors"],
    "extra_teachers": ["someone/photo", "models/anime"],
    "lora_rank": 8,
    "lora_alpha": 4.0,
    "lora_target_modules": ["to_q", "to_out.0"],
    "lora_dropout": 0.25,
    "full_finetune": True,
    "w_embedding": True,
    "init_adapter": "someone/adapter",
    "export_ema_decay": 0.75,
    "target": "online",
    "ema_decay": 0.5,
    "output_dir": "out put",
    "output_name": "my lcm",
    "seed": 7,
    "train_batch_size": 3,
    "gradient_accumulation_steps": 4,
    "max_train_steps": 20,
    "num_train_epochs": 2,
    "gradient_checkpointing": "selective",
    "mixed_precision": "bf16",
    "allow_tf32": True,
    "learning_rate": 2e-5,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 5,
    "adam_beta1": 0.5,
    "adam_beta2": 0.95,
    "adam_weight_decay": 1e-2,
    "adam_epsilon": 1e-6,
    "use_8bit_adam": True,
    "max_grad_norm": 10.0,
    "dataloader_num_workers": 2,
    "checkpointing_steps": 50,
    "checkpoints_total_limit": 3,
    "resume_from_checkpoint": "other/checkpoint-7",
    "validation_prompts": ["a red ball", "a: #2 'cat'"],
    "validation_steps": 60,
    "validation_num_steps": [1, 3],
    "validation_seed": 9,
    "validation_num_images": 3,
    "evaluate_steps": 70,
    "validation_teacher_steps": 20,
    "logging_steps": 2,
    "report_to": ["wandb", "trackio"],
    "tracker_project_name": "few.steps-1",
    "logging_dir": "board",
    "license": "openrail++",
    "push_to_hub": True,
    "hub_model_id": "someone/few-steps",
    "hub_private": True,
    "dry_run": True,
}


LAW = {"lognormal_mean": -1.1, "lognormal_std": 2.0}
CURVE = {"ect_q": 2.0, "ect_k": 8.0, "ect_b": 1.0, "ect_stages": 8}
NOT_TOGETHER = {
    *(
        "dataset_name",
        "parquet_files",
        "webdataset",
        "prompts_file",
        "trajectories_per_prompt",
        "trajectory_dir",
    ),
    *(
        "objective",
        "full_finetune",
        "w_embedding",
        "guidance_per_phase",
        "preserve_cfg",
        "guidance_scale",
    ),
    *("coupling", "loss_type", "first_ddim_timesteps", "streaming", "ema_schedule", *CURVE),
}
"""What excludes other values."""


def write_yaml(folder: Path, text: str, name: str = "run.yaml") -> list[str]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return ["--config", str(path)]


def read_by(objective: str) -> dict[str, Any]:
    """The values that go together with this method and each other."""
    names = [name for name in VALUES if name not in NOT_TOGETHER]
    own = flags_of(METHODS[objective].settings)
    flags = FLAGS - {"as_control"}
    values = {
        **{name: VALUES[name] for name in names if name not in flags or name in own},
        "objective": objective,
    }
    if "tangent_mode" in own:
        values["tangent_mode"] = "fd"  # the others ask no solver
    if "target" in own:
        values["target"] = "ema"  # the other has no decay
    if objective == "stochastic_flow":
        return {
            **{name: value for name, value in values.items() if name != "huber_c"},
            "coupling": "solver",
        }
    return {**values, "loss_type": "cauchy"}


FIELDS = [name for name, f in run.FIELDS.items() if not f.metadata["flag"].is_optional]
"""The flags that every configuration writes out."""

PROMPTS = {"train_data_dir": None, "prompts_file": "prompts.txt"}

COMPANIONS: dict[str, dict[str, Any]] = {
    "dataset_name": {"train_data_dir": None},
    "parquet_files": {"train_data_dir": None},
    "webdataset": {"train_data_dir": None},
    "prompts_file": {"train_data_dir": None},
    "cache_variants": {"cache_latents": True},
    "latent_cache_dir": {"cache_latents": True},
    "streaming": {
        "train_data_dir": None,
        "dataset_name": "someone/pictures",
        "cache_latents": True,
    },
    "trajectories_per_prompt": PROMPTS,
    "trajectory_dir": PROMPTS,
    "guidance_scale_min": {"guidance_scale_max": 15.0},
    "guidance_scale_max": {"guidance_scale_min": 2.0},
    "guidance_per_phase": {"objective": "pcm", "phases": 2},
    "preserve_cfg": {"proportion_empty_prompts": 0.1},
    "coupling": {"objective": "flow_map", "as_control": True},
    "phases": {"objective": "pcm"},
    "segments": {"objective": "tscd"},
    "landing_steps": {"objective": "tcd"},
    "landing_jitter": {"objective": "tcd"},
    "landing_window": {"objective": "tcd"},
    "rollout_steps": {**PROMPTS, "objective": "rollout"},
    "eta": {"objective": "tcd"},
    "discretization": {"objective": "ct"},
    **{n: {"objective": "ct", "discretization": "ect"} for n in CURVE},
    "time_distribution": {"objective": "ct"},
    **{n: {"objective": "ct", "time_distribution": "lognormal"} for n in LAW},
    "ema_schedule": {"objective": "ct", "target": "ema"},
    "first_ddim_timesteps": {"objective": "ct"},
    "tangent_mode": {"objective": "scm"},
    "tangent_step": {"objective": "scm"},
    "tangent_warmup": {"objective": "scm"},
    "tangent_normalization": {"objective": "scm"},
    "learned_weight": {"objective": "scm"},
    "injection": {"objective": "stochastic_flow"},
    "w_embedding": {"full_finetune": True},
    "lr_warmup_steps": {"lr_scheduler": "cosine"},
    "snr_gamma": {"weighting": "min_snr"},
    "hub_model_id": {"push_to_hub": True},
    "hub_private": {"push_to_hub": True},
}
"""What a value needs beside it to make sense."""

CONSEQUENCES: dict[str, dict[str, Any]] = {
    "preserve_cfg": {"guidance_scale": 2.0},
    "guidance_scale_min": {"guidance_scale": None},
    "guidance_per_phase": {"guidance_scale": None},
    "coupling": {"solver": None, "solver_steps": None},
    "loss_type": {"huber_c": None},
    "weighting": {"snr_gamma": 5.0},
    "target": {"ema_decay": None},
    "discretization": {"first_ddim_timesteps": None},
    "time_distribution": LAW,
    **{n: {k: v for k, v in LAW.items() if k != n} for n in LAW},
    **{n: {"num_ddim_timesteps": None, **CURVE, n: VALUES[n]} for n in CURVE},
    "ema_schedule": {"ema_decay": 0.95},
    "tangent_mode": {"solver": None, "solver_steps": None, "tangent_step": None},
}
"""What a value of VALUES makes of the method's defaults: those without effect beside it are None,
others come to have one.
"""

NEEDS_PROMPTS = [name for name, method in METHODS.items() if method.from_trajectories]

AWKWARD_WORDS = ["- x", "Größe 貓", "two\nlines", "'q\"", " edge ", ""]
AWKWARD: dict[str, Any] = {
    "validation_prompts": ["a: b", "# no comment", "yes", "null", "2024", "1e3", *AWKWARD_WORDS],
    "teacher_revision": "1e5",
    "variant": "null",
    "output_dir": "a: b #c",
    "learning_rate": 1 / 3 * 1e-4,
    "adam_epsilon": 1e-12,
    "max_grad_norm": 1e22,
}
"""Values that YAML could take for others."""


def parse(*line: str) -> TrainConfig:
    return parse_config([*words(BASE), *line])


def everything(name: str) -> dict[str, Any]:
    return {**BASE, **COMPANIONS.get(name, {}), name: VALUES[name]}


def resolved(values: dict[str, Any]) -> dict[str, Any]:
    """All fields: these values over the defaults of the method among them."""
    method = {name: value for name, value in values.items() if name == "objective"}
    consequences = {
        name: value for cause in values for name, value in CONSEQUENCES.get(cause, {}).items()
    }
    source = PROMPTS if values.get("objective") in NEEDS_PROMPTS else {}
    flat = TrainConfig.of(**{**BASE, **source, **method}).flat()
    return {**flat, **consequences, **values}
