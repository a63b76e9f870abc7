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
from tests.support.values import VALUES

BASE = {"pretrained_teacher_model": "teacher", "train_data_dir": "images"}


LAW = {"lognormal_mean": -1.1, "lognormal_std": 2.0}
CURVE = {"ect_q": 2.0, "ect_k": 8.0, "ect_b": 1.0, "ect_stages": 8}
HEADS = {"critic_updates": 1, "adversarial_real": "target", "adversarial_r1": 0.0}
SCORES = {"critic_updates": 1, "dmd_of": "landing", "dmd_start": 0.0}
REWARDS = {"terms": ["reward=0.01"], "reward": "my_rewards:brightness"}
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
    *("dmd_of", "dmd_start", "reward", "reward_weights", "reward_share"),
    "reward_vae",
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
        "terms": ["adversarial=0.5"],  # has critics, and goes with every method
    }
    if "tangent_mode" in own:
        values["tangent_mode"] = "fd"  # the others ask no solver
    if "target" in own:
        values["target"] = "ema"  # the other has no decay
    if objective == "stochastic_flow":
        others = {"huber_c", "terms", "critic_learning_rate", *HEADS}
        return {
            **{name: value for name, value in values.items() if name not in others},
            "coupling": "solver",
        }
    if objective == "dmd":  # compares nothing
        others = {"huber_c", "weighting", "snr_gamma", "solver", "solver_steps"}
        return {name: value for name, value in values.items() if name not in others}
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
    **{n: {"terms": ["adversarial=0.1"]} for n in (*HEADS, "critic_learning_rate")},
    **{n: {"terms": ["dmd=1.0"]} for n in ("dmd_of", "dmd_start")},
    **{n: {"objective": "dmd"} for n in ("dmd_steps", "first_timestep")},
    **dict.fromkeys(("reward", "reward_share", "reward_vae"), REWARDS),
    "reward_weights": {"terms": ["reward=0.01"], "reward": "clip"},
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
    **dict.fromkeys((*HEADS, "critic_learning_rate"), HEADS),
    **dict.fromkeys(("dmd_of", "dmd_start"), SCORES),
    **{n: {"reward_share": 0.25} for n in ("reward", "reward_weights", "reward_vae")},
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
