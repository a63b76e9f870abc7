"""Flags that are ignored or have no effect beside others are refused with the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lcm.config.command_line import parse_config
from lcm.config.run import TrainConfig
from tests.support.configs import (
    BASE,
    PROMPTS,
    parse,
    write_yaml,
)
from tests.support.runs import words

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
    *(
        (name, value, {"terms": terms}, f"--terms {term}", {**given, "terms": [term]})
        for name, value, terms, term, given in (
            ("critic_updates", 2, ["latent_perceptual"], "adversarial", {}),
            ("adversarial_real", "images", ["dmd"], "adversarial", {}),
            ("adversarial_r1", 1.0, [], "adversarial", {}),
            ("dmd_start", 0.5, ["adversarial"], "dmd", {}),
            ("reward_share", 0.5, ["dmd"], "reward", {"reward": "mine:bright"}),
            ("reward_weights", "weights", ["dmd"], "reward", {"reward": "hpsv2"}),
        )
    ),
    (
        "reward_weights",
        "weights",
        {"terms": ["reward"], "reward": "mine:bright"},
        "--reward clip",
        {"terms": ["reward"], "reward": "clip"},
    ),
    *(
        (name, value, {"objective": "dmd"}, "choose another one", {})
        for name, value in (
            *(("loss_type", "l1"), ("huber_c", 0.1)),
            *(("solver", "heun"), ("solver_steps", 2)),
        )
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
                match=rf"^{name} has no effect (with|beside|without) .*; leave it out or .*{says}",
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
