"""Values that make no sense are refused by name; the ends of every range are allowed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lcm.config.command_line import parse_config
from lcm.config.run import TrainConfig
from tests.support.configs import (
    BASE,
    PROMPTS,
)
from tests.support.runs import words

NOT_POSITIVE = [
    (name, value)
    for name in [
        "lora_rank",
        "train_batch_size",
        "gradient_accumulation_steps",
        "max_train_steps",
        "checkpointing_steps",
        "validation_steps",
        "logging_steps",
        "resolution",
        "num_train_epochs",
        "checkpoints_total_limit",
        "max_train_samples",
        "solver_steps",
        "trajectories_per_prompt",
    ]
    for value in (0, -1)
] + [
    (name, value)
    for name in (
        "learning_rate",
        "max_grad_norm",
        "lora_alpha",
        "huber_c",
        "timestep_scaling_factor",
        "snr_gamma",
    )
    for value in (0.0, -0.5)
]
NONSENSE: list[tuple[str, dict[str, Any]]] = [
    *((name, {name: value}) for name, value in NOT_POSITIVE),
    ("pretrained_teacher_model", {"pretrained_teacher_model": None}),
    ("pretrained_teacher_model", {"pretrained_teacher_model": ""}),
    ("train_data_dir", {"train_data_dir": None}),
    *((name, {name: "another source"}) for name in ("dataset_name", "parquet_files", "webdataset")),
    ("dataset_name", {"streaming": True}),
    ("dataset_name", {"streaming": True, "cache_latents": True}),
    (
        "cache_latents",
        {"streaming": True, "dataset_name": "someone/pictures", "train_data_dir": None},
    ),
    ("objective", {"objective": "magic"}),
    ("solver", {"solver": "euler"}),
    ("loss_type", {"loss_type": "l3"}),
    ("target", {"target": "offline"}),
    ("mixed_precision", {"mixed_precision": "fp8"}),
    ("lr_scheduler", {"lr_scheduler": "cosin"}),
    ("lr_scheduler", {"lr_scheduler": "piecewise_constant"}),
    (
        "report_to must be some of tensorboard, wandb, trackio",
        {"report_to": ["tensorboard", "nobody"]},
    ),
    ("report_to must be some of tensorboard, wandb, trackio", {"report_to": ["none", "wandb"]}),
    ("report_to: all is not offered", {"report_to": ["all"]}),
    *(
        ("tracker_project_name", {"tracker_project_name": name})
        for name in ("", "..", "a/b", "a b", "a#b")
    ),
    ("interpolation_type", {"interpolation_type": "cubist"}),
    ("proportion_empty_prompts", {"proportion_empty_prompts": -0.1}),
    ("proportion_empty_prompts", {"proportion_empty_prompts": 1.1}),
    ("proportion_empty_prompts", {"proportion_empty_prompts": math.nan}),
    ("guidance_scale", {"guidance_scale": 0.5}),
    ("guidance_scale", {"guidance_scale": math.nan}),
    ("guidance_scale_max", {"guidance_scale_min": 2.0}),
    ("guidance_scale_min", {"guidance_scale_max": 9.0}),
    ("guidance_scale", {"guidance_scale_min": 0.5, "guidance_scale_max": 9.0}),
    ("lr_warmup_steps", {"lr_scheduler": "constant", "lr_warmup_steps": 5}),
    ("learning_rate", {"learning_rate": float("inf")}),
    ("lora_alpha", {"lora_alpha": float("nan")}),
    ("adam_epsilon", {"adam_epsilon": 0.0}),
    ("guidance_scale", {"guidance_scale_min": 9.0, "guidance_scale_max": 2.0}),
    ("learning_rate", {"learning_rate": math.nan}),
    ("lr_warmup_steps", {"lr_warmup_steps": -1}),
    ("dataloader_num_workers", {"dataloader_num_workers": -1}),
    ("seed", {"seed": -1}),
    ("ema_decay must lie in", {"target": "ema", "ema_decay": 1.0}),
    ("ema_decay must lie in", {"target": "ema", "ema_decay": -0.1}),
    ("validation_num_steps", {"validation_num_steps": [0]}),
    ("validation_num_steps", {"validation_num_steps": [4, 51]}),
    ("validation_num_steps", {"objective": "dmd", "validation_num_steps": [4, 36]}),
    ("validation_num_steps", {"validation_num_steps": [4, 8], "num_ddim_timesteps": 7}),
    ("weighting", {"weighting": "heavy"}),
    ("coupling", {"objective": "flow_map", "coupling": "loose"}),
    ("coupling", {"objective": "flow_map", "coupling": "same_noise"}),
    ("coupling", {"objective": "flow_map", "coupling": "sde"}),
    ("loss_type", {"objective": "stochastic_flow", "loss_type": "l2"}),
    ("objective", {"loss_type": "energy"}),
    ("discretization", {"objective": "ct", "discretization": "coarse"}),
    ("tangent_mode", {"objective": "scm", "tangent_mode": "exact"}),
    (
        "first_ddim_timesteps",
        {"objective": "ct", "first_ddim_timesteps": 60, "num_ddim_timesteps": 50},
    ),
    ("phases", {"objective": "pcm", "phases": 3}),
    ("phases", {"objective": "pcm", "phases": 4, "num_ddim_timesteps": 50}),
    ("phases", {"objective": "flow_map", "phases": 3}),
    ("landing_steps", {"objective": "tcd", "landing_steps": [4, 0]}),
    ("landing_jitter", {"objective": "tcd", "landing_jitter": 1.5}),
    ("eta", {"objective": "tcd", "eta": -0.1}),
    ("eta", {"objective": "tcd", "eta": 1.5}),
    ("tangent_warmup", {"objective": "scm", "tangent_warmup": 2.0}),
    ("tangent_step", {"objective": "scm", "tangent_step": 0}),
    ("injection", {"objective": "stochastic_flow", "injection": 0.0}),
    ("guidance_per_phase", {"objective": "pcm", "guidance_per_phase": [5.0, 4.0, 3.0]}),
    ("guidance_scale", {"objective": "pcm", "guidance_per_phase": [5.0, 4.0, 3.0, 0.5]}),
    (
        "guidance_per_phase",
        {
            "objective": "pcm",
            "guidance_per_phase": [5.0] * 4,
            "guidance_scale_min": 2.0,
            "guidance_scale_max": 9.0,
        },
    ),
    ("preserve_cfg", {"preserve_cfg": True, "proportion_empty_prompts": 0.0}),
    (
        "preserve_cfg",
        {
            "preserve_cfg": True,
            "proportion_empty_prompts": 0.1,
            "guidance_scale_min": 2.0,
            "guidance_scale_max": 9.0,
        },
    ),
    *(
        ("preserve_cfg", {**PROMPTS, "preserve_cfg": True, "objective": name})
        for name in ("endpoint", "reflow")
    ),
    ("train_data_dir", {"prompts_file": "prompts.txt"}),
    ("dataset_name", {**PROMPTS, "dataset_name": "someone/pictures"}),
    ("trajectories_per_prompt", {"trajectories_per_prompt": 2}),
    ("trajectory_dir", {"trajectory_dir": "somewhere"}),
    ("random_flip", {**PROMPTS, "random_flip": True}),
    ("center_crop", {**PROMPTS, "center_crop": True}),
    *(
        (
            "proportion_empty_prompts",
            {**PROMPTS, "objective": name, "proportion_empty_prompts": 0.1},
        )
        for name in ("endpoint", "reflow")
    ),
    ("prompts_file", {"objective": "endpoint"}),
    ("ct", {**PROMPTS, "objective": "ct"}),
    ("lpips", {"objective": "pcm", "loss_type": "lpips"}),
    ("export_ema_decay", {"export_ema_decay": 1.0}),
    ("lora_dropout", {"lora_dropout": 1.0}),
    ("lora_dropout", {"lora_dropout": -0.1}),
    ("w_embedding", {"w_embedding": True}),
    ("w_embedding", {"w_embedding": True, "full_finetune": True, "objective": "ct"}),
    (
        "w_embedding",
        {**PROMPTS, "w_embedding": True, "full_finetune": True, "objective": "endpoint"},
    ),
    *(
        (name, {"full_finetune": True, name: value})
        for name, value in {
            "lora_rank": 8,
            "lora_alpha": 4.0,
            "lora_dropout": 0.1,
            "lora_target_modules": ["to_q"],
            "init_adapter": "someone/adapter",
        }.items()
    ),
]


@pytest.mark.parametrize(
    ("name", "change"), NONSENSE, ids=lambda value: value if isinstance(value, str) else str(value)
)
def test_nonsense_is_a_value_error_that_names_the_flag(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        TrainConfig.of(**{**BASE, **change})
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        parse_config(words({**BASE, **change}))


@pytest.mark.parametrize(
    "change",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale_min": 1.0, "guidance_scale_max": 1.0},
        {"target": "ema", "ema_decay": 0.0},
        {"export_ema_decay": 0.0},
        {"lora_dropout": 0.0},
        {"objective": "tcd", "eta": 0.0, "landing_jitter": 0.0},
        {"objective": "tcd", "eta": 1.0, "landing_jitter": 1.0},
        {"objective": "scm", "tangent_warmup": 0.0},
        {"objective": "pcm", "guidance_per_phase": [8.0, 4.0, 2.0, 1.0]},
        {"objective": "flow_map", "coupling": "same_noise", "as_control": True},
        {"loss_type": "lpips"},
        {"proportion_empty_prompts": 0.0},
        {"proportion_empty_prompts": 1.0},
        {"validation_num_steps": [1, 50]},
        {"lr_warmup_steps": 0},
        {"max_grad_norm": math.inf},
        {"max_train_samples": 1},
        *({"interpolation_type": name} for name in ("nearest", "bilinear", "bicubic", "lanczos")),
        *(
            {"lr_scheduler": name}
            for name in (
                "linear",
                "cosine_with_restarts",
                "polynomial",
                "constant",
                "constant_with_warmup",
            )
        ),
        *({"mixed_precision": name} for name in ("no", "fp16", "bf16")),
    ],
    ids=str,
)
def test_the_ends_of_every_range_are_allowed(change: dict[str, Any]) -> None:
    config = parse_config(words({**BASE, **change}))
    assert {name: config.flat()[name] for name in change} == change
