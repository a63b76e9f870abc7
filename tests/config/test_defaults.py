"""What a flag is that was left out."""

from __future__ import annotations

from typing import Any

import pytest

from lcm.config.command_line import parse_config
from lcm.config.run import SECTION_OF, TrainConfig
from lcm.methods import METHODS
from tests.support.configs import (
    BASE,
    NEEDS_PROMPTS,
    PROMPTS,
)
from tests.support.runs import words

DEFAULTS: dict[str, dict[str, Any]] = {
    "lcm": {
        "num_ddim_timesteps": 50,
        "solver": "ddim",
        "loss_type": "huber",
        "huber_c": 0.001,
        "timestep_scaling_factor": 10.0,
    },
    "cd": {
        "num_ddim_timesteps": 50,
        "solver": "heun",
        "loss_type": "l2",
        "huber_c": None,
        "target": "ema",
        "ema_decay": 0.95,
    },
    "ct": {
        "num_ddim_timesteps": 1000,
        "first_ddim_timesteps": 10,
        "solver": None,
        "guidance_scale": None,
        "preserve_cfg": None,
    },
    "pcm": {
        "num_ddim_timesteps": 40,
        "phases": 4,
        "timestep_scaling_factor": None,
        "guidance_per_phase": None,
    },
    "tcd": {
        "landing_steps": [4, 5, 6, 7, 8],
        "landing_jitter": 0.3,
        "eta": 0.3,
        "loss_type": "huber",
    },
    "tscd": {"num_ddim_timesteps": 40, "segments": [8, 4, 2, 1], "loss_type": "l2", "eta": 0.0},
    "scm": {
        "num_ddim_timesteps": None,
        "weighting": "velocity",
        "tangent_mode": "fd",
        "tangent_warmup": 0.1,
    },
    "flow_map": {
        "num_ddim_timesteps": None,
        "phases": 4,
        "solver_steps": 8,
        "coupling": "solver",
        "target": None,
    },
    "stochastic_flow": {"loss_type": "energy", "coupling": "sde", "solver": None, "injection": 0.5},
    "phased_scm": {
        "num_ddim_timesteps": None,
        "phases": 4,
        "weighting": "velocity",
        "loss_type": "l2",
        "tangent_step": 5,
    },
    "rollout": {
        "num_ddim_timesteps": 40,
        "loss_type": "l2",
        "rollout_steps": [4],
        "target": None,
        "guidance_scale": 5.0,
    },
    "endpoint": {
        "num_ddim_timesteps": 40,
        "loss_type": "l2",
        "target": None,
        "ema_decay": None,
        "guidance_scale": 5.0,
    },
    "reflow": {
        "num_ddim_timesteps": 40,
        "loss_type": "l2",
        "target": None,
        "ema_decay": None,
        "guidance_scale": 5.0,
    },
    "dmd": {
        "num_ddim_timesteps": 50,
        "dmd_steps": [1, 2, 4],
        "first_timestep": 699,
        "terms": ["dmd=1.0"],
        "dmd_of": "landing",
        "adversarial_real": None,
        "loss_type": None,
        "huber_c": None,
        "solver": None,
        "target": None,
    },
    "hyper": {
        "num_ddim_timesteps": 40,
        "segments": [8, 4, 2, 1],
        "dmd_of": "noise",
        "adversarial_real": "target",
        "reward": None,
    },
}


@pytest.mark.parametrize("objective", METHODS)
def test_a_flag_left_out_is_the_methods_own(objective: str) -> None:
    source = PROMPTS if objective in NEEDS_PROMPTS else {}
    config = parse_config(words({**BASE, **source, "objective": objective}))
    expected = DEFAULTS[objective]
    method = config.method
    assert {name: config.flat()[name] for name in expected} == expected
    if objective != "ct":
        assert (method.guidance_scale, method.preserve_cfg, method.guidance_range) == (
            5.0,
            False,
            (5.0, 5.0),
        )
    assert (
        method.guidance_per_phase is method.guidance_scale_min is method.guidance_scale_max is None
    )


@pytest.mark.parametrize(
    ("loss_type", "c"),
    [
        ("huber", 0.001),
        ("cauchy", 0.1),
        ("huber_norm", None),
        ("l2", None),
        ("l1", None),
        ("lpips", None),
    ],
)
def test_every_loss_has_a_c_of_its_own(loss_type: str, c: float | None) -> None:
    """The c of huber_norm depends on the latents."""
    assert TrainConfig.of(**BASE, loss_type=loss_type).method.huber_c == c
    if loss_type in ("huber", "huber_norm", "cauchy"):
        assert TrainConfig.of(**BASE, loss_type=loss_type, huber_c=0.3).method.huber_c == 0.3


@pytest.mark.parametrize("objective", METHODS)
def test_resolving_twice_changes_nothing(objective: str) -> None:
    config = TrainConfig.of(
        **{**BASE, **(PROMPTS if objective in NEEDS_PROMPTS else {}), "objective": objective}
    )
    assert TrainConfig.of(**config.flat()) == config


def held(config: TrainConfig, name: str) -> Any:
    """The value that a section holds itself, where `flat` gives copies."""
    return getattr(getattr(config, SECTION_OF[name]), name)


def test_defaults_are_not_shared_between_configurations() -> None:
    first = TrainConfig.of(**BASE)
    for name in ("validation_num_steps", "validation_prompts", "lora_target_modules"):
        held(first, name).append("x")
        assert "x" not in held(TrainConfig.of(**BASE), name)
