"""What a flag is that was left out, and flags that have no effect beside others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lcm.config.command_line import parse_config
from lcm.config.run import SECTION_OF, TrainConfig
from lcm.methods import METHODS
from tests.support.configs import (
    BASE,
    NEEDS_PROMPTS,
    PROMPTS,
    parse,
    write_yaml,
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


IGNORED = [
    ("lcm", "phases", 4),
    ("lcm", "eta", 0.3),
    ("lcm", "coupling", "solver"),
    ("cd", "segments", [1]),
    ("ct", "guidance_scale", 7.5),
    ("ct", "preserve_cfg", True),
    ("ct", "solver", "ddim"),
    ("pcm", "timestep_scaling_factor", 10.0),
    ("tcd", "phases", 4),
    ("tscd", "landing_steps", [4]),
    ("scm", "num_ddim_timesteps", 50),
    ("flow_map", "target", "ema"),
    ("flow_map", "ema_decay", 0.95),
    ("stochastic_flow", "tangent_step", 5),
]


@pytest.mark.parametrize(("objective", "name", "value"), IGNORED)
def test_a_flag_that_the_method_ignores_is_refused(
    tmp_path: Path, objective: str, name: str, value: Any
) -> None:
    values = {**BASE, "objective": objective, name: value}
    message = f"{name} has no effect with objective {objective}"
    with pytest.raises(ValueError, match=message):
        parse_config(words(values))
    with pytest.raises(ValueError, match=message):
        parse_config(write_yaml(tmp_path, yaml.safe_dump(values)))


WITHOUT_EFFECT: list[tuple[str, Any, dict[str, Any], str, dict[str, Any]]] = [
    (
        "guidance_scale",
        3.0,
        {"guidance_scale_min": 2.0, "guidance_scale_max": 9.0},
        "leave those out",
        {},
    ),
    (
        "guidance_scale",
        3.0,
        {"objective": "pcm", "guidance_per_phase": [5.0] * 4},
        "leave those out",
        {"objective": "pcm"},
    ),
    *(
        (
            name,
            value,
            {"objective": objective, **coupling},
            "--coupling solver",
            {"objective": objective, "coupling": "solver"},
        )
        for name, value in (("solver", "heun"), ("solver_steps", 3))
        for objective, coupling in (
            ("stochastic_flow", {}),
            ("stochastic_flow", {"coupling": "same_noise"}),
            ("flow_map", {"coupling": "same_noise", "as_control": True}),
        )
    ),
    ("ema_decay", 0.9, {"target": "online"}, "--target ema", {}),
    (
        "ema_decay",
        0.9,
        {"objective": "cd", "target": "online"},
        "--target ema",
        {"objective": "cd"},
    ),
    *(
        ("snr_gamma", 3.0, {"weighting": name}, "--weighting min_snr", {"weighting": "min_snr"})
        for name in ("uniform", "snr", "velocity", "inverse_dt")
    ),
    *(
        ("huber_c", 0.1, {"loss_type": name}, "huber, huber_norm, cauchy", {"loss_type": "cauchy"})
        for name in ("l2", "l1", "lpips")
    ),
    (
        "huber_c",
        0.1,
        {"objective": "stochastic_flow"},
        "huber, huber_norm, cauchy",
        {"loss_type": "huber_norm"},
    ),
    *(
        (
            "first_ddim_timesteps",
            5,
            {"objective": "ct", "discretization": name},
            "--discretization refined",
            {"objective": "ct"},
        )
        for name in ("fixed", "ect")
    ),
    (
        "num_ddim_timesteps",
        40,
        {"objective": "ct", "discretization": "ect"},
        "--discretization refined",
        {"objective": "ct", "validation_num_steps": [4]},
    ),
    *(
        (
            name,
            value,
            {"objective": "tcd", "landing_steps": []},
            "pass some",
            {"objective": "tcd", "landing_steps": [4]},
        )
        for name, value in (("landing_jitter", 0.1), ("landing_window", 260))
    ),
    *(
        (
            name,
            2,
            {"objective": "ct", "discretization": "cm"},
            "--discretization ect",
            {"objective": "ct", "discretization": "ect"},
        )
        for name in ("ect_q", "ect_k", "ect_b", "ect_stages")
    ),
    *(
        (
            name,
            0.5,
            {"objective": "ct", "time_distribution": "uniform"},
            "--time_distribution lognormal",
            {"objective": "ct", "time_distribution": "lognormal"},
        )
        for name in ("lognormal_mean", "lognormal_std")
    ),
    (
        "ema_schedule",
        "cm",
        {"objective": "ct", "target": "online"},
        "--target ema",
        {"objective": "ct", "target": "ema"},
    ),
    (
        "ema_schedule",
        "cm",
        {"objective": "ct", "target": "ema", "discretization": "ect"},
        "--discretization cm",
        {"objective": "ct", "target": "ema", "discretization": "cm"},
    ),
]


@pytest.mark.parametrize(("name", "value", "beside", "says", "instead"), WITHOUT_EFFECT, ids=str)
def test_a_flag_without_effect_beside_others_is_refused_with_the_way_out(
    tmp_path: Path,
    name: str,
    value: Any,
    beside: dict[str, Any],
    says: str,
    instead: dict[str, Any],
) -> None:
    for source in (
        words({**BASE, **beside, name: value}),
        write_yaml(tmp_path, yaml.safe_dump({**BASE, **beside, name: value})),
    ):
        if [] not in beside.values() or source[0] == "--config":  # flags know no empty list
            with pytest.raises(
                ValueError,
                match=rf"^{name} has no effect (with|beside) .*; leave it out or .*{says}",
            ):
                parse_config(source)
    assert TrainConfig.of(**{**BASE, **beside}).flat()[name] is None
    assert TrainConfig.of(**{**BASE, **instead, name: value}).flat()[name] == value


def test_a_misspelled_choice_is_named_before_the_flags_that_depend_on_it() -> None:
    with pytest.raises(ValueError, match="unknown loss_type 'hubr'"):
        parse("--loss_type", "hubr", "--huber_c", "0.1")


def test_trajectories_are_drawn_with_the_solver_whatever_the_coupling() -> None:
    values = {**BASE, **PROMPTS, "objective": "stochastic_flow"}
    assert TrainConfig.of(**values).method.solver == "ddim"
    assert TrainConfig.of(**values, solver="heun").method.solver == "heun"
    with pytest.raises(ValueError, match="solver_steps has no effect with coupling sde"):
        TrainConfig.of(**values, solver_steps=3)


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
