"""Compositions and flags that make no sense are refused, with the reason and a way out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from lcm.diffusion.tables import WEIGHTS
from lcm.methods import METHODS
from lcm.methods.build import build_objective
from lcm.methods.config import MethodConfig, flags_of, resolved
from tests.support.closed_forms import GaussianRoles, make_batch, make_objective
from tests.support.methods import (
    COMPARING,
    TRAINS_PURE_NOISE,
    asking_the_solver,
    every_comparing_method,
    every_method,
    without_terms,
)
from tests.support.schedules import make_schedule

REFUSED: list[tuple[str, dict[str, Any], list[str]]] = [
    (
        "flow_map",
        {"coupling": "same_noise"},
        ["same noise", "teacher again", "denoiser", "--coupling solver"],
    ),
    (
        "stochastic_flow",
        {"loss_type": "l2"},
        ["E[x0 | x_t]", "tower property", "--loss_type energy", "--coupling solver"],
    ),
    ("stochastic_flow", {"loss_type": "huber"}, ["E[x0 | x_t]"]),
    (
        "stochastic_flow",
        {"loss_type": "l2", "coupling": "solver"},
        ["injected noise", ("--objective stochastic_flow")],
    ),
    ("flow_map", {"coupling": "sde"}, ["E[x0 | x_t]", "--coupling solver"]),
    *(
        (name, {"loss_type": "energy"}, ["injected noise", "stochastic_flow"])
        for name in COMPARING
        if name != "stochastic_flow"
    ),
]


@pytest.mark.parametrize(("name", "flags", "reasons"), REFUSED, ids=str)
def test_compositions_that_cannot_work_are_refused_with_the_reason(
    name: str, flags: dict[str, Any], reasons: list[str]
) -> None:
    with pytest.raises(ValueError) as refusal:
        make_objective(name, **flags)
    for reason in reasons:
        assert reason in str(refusal.value)


@pytest.mark.parametrize(("name", "flags", "reasons"), REFUSED, ids=str)
def test_negative_controls_are_built_and_run(
    name: str, flags: dict[str, Any], reasons: list[str]
) -> None:
    schedule = make_schedule()
    objective = make_objective(name, schedule, **flags, **without_terms(name), as_control=True)
    batch = make_batch()
    asked_for = None if objective.own_noises == 0 else batch.extra_noise
    assert (
        objective(GaussianRoles(schedule), dataclasses.replace(batch, extra_noise=asked_for), 0.5)
        .loss.isfinite()
        .all()
    )


@pytest.mark.parametrize("weighting", TRAINS_PURE_NOISE)
@pytest.mark.parametrize(
    "name", [name for name in COMPARING if name != "scm"]
)  # the tangent itself is 0 at alpha 0
def test_pure_noise_has_a_loss_with_the_weights_that_are_left(name: str, weighting: str) -> None:
    schedule, batch = make_schedule("v_prediction", zero_snr=True), make_batch()
    batch = dataclasses.replace(batch, uniform_time=torch.full((6,), 0.9999))
    assert (
        make_objective(name, schedule, weighting=weighting, **without_terms(name))(
            GaussianRoles(schedule), batch, 0.5
        ).loss
        > 1e-6
    ).all()


@every_comparing_method
@pytest.mark.parametrize("weighting", [name for name in WEIGHTS if name not in TRAINS_PURE_NOISE])
def test_a_weight_that_leaves_pure_noise_untrained_is_refused(name: str, weighting: str) -> None:
    """They are refused with zero terminal SNR alone. The reason is true: as a control, the timestep
    that play starts from has no loss.
    """
    schedule, batch = make_schedule("v_prediction", zero_snr=True), make_batch()
    batch = dataclasses.replace(batch, uniform_time=torch.full((6,), 0.9999))
    with pytest.raises(
        ValueError,
        match=f"weighting {weighting} is 0 at the last timestep.*--weighting uniform or velocity",
    ):
        make_objective(name, schedule, weighting=weighting)
    flags = without_terms(name)
    control = make_objective(name, schedule, weighting=weighting, as_control=True, **flags)
    assert torch.equal(control(GaussianRoles(schedule), batch, 0.5).loss, torch.zeros(6))
    make_objective(name, make_schedule("v_prediction"), weighting=weighting)


UNREAD: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("lcm", {"guidance_scale_min": 2.0, "guidance_scale_max": 9.0}, {"guidance_scale": 3.0}),
    ("pcm", {"guidance_per_phase": [5.0, 4.0, 3.0, 2.0]}, {"guidance_scale": 3.0}),
    ("stochastic_flow", {}, {"solver": "heun", "solver_steps": 3}),
    ("stochastic_flow", {"coupling": "same_noise"}, {"solver": "heun", "solver_steps": 3}),
    (
        "flow_map",
        {"coupling": "same_noise", "as_control": True},
        {"solver": "heun", "solver_steps": 3},
    ),
    *(("lcm", {"weighting": name}, {"snr_gamma": 0.1}) for name in WEIGHTS if name != "min_snr"),
    *(("lcm", {"loss_type": name}, {"huber_c": 0.1}) for name in ("l1", "l2")),
    ("stochastic_flow", {}, {"huber_c": 0.1}),
    ("dmd", {}, {"loss_type": "l2", "solver": "heun", "solver_steps": 3}),
    ("dmd", {}, {"huber_c": 0.1}),
    ("ct", {"discretization": "fixed"}, {"first_ddim_timesteps": 500}),
    ("ct", {"discretization": "ect"}, {"first_ddim_timesteps": 5, "num_ddim_timesteps": 20}),
    ("ct", {"discretization": "refined"}, {"ect_q": 4.0, "ect_k": 1.0, "ect_b": 9.0}),
    ("ct", {"time_distribution": "uniform"}, {"lognormal_mean": 0.5, "lognormal_std": 0.5}),
    ("tcd", {"landing_steps": []}, {"landing_jitter": 0.9, "landing_window": 0}),
    ("scm", {"time_distribution": "uniform"}, {"lognormal_mean": 0.5, "lognormal_std": 0.5}),
    ("scm", {"tangent_mode": "central"}, {"solver": "heun", "solver_steps": 3}),
    (
        "phased_scm",
        {"tangent_mode": "jvp"},
        {"solver": "heun", "solver_steps": 3, "tangent_step": 50},
    ),
]


@pytest.mark.parametrize(("name", "flags", "unread"), UNREAD, ids=str)
def test_what_is_refused_for_having_no_effect_has_none(
    name: str, flags: dict[str, Any], unread: dict[str, Any]
) -> None:
    """And has one as soon as the flags beside it are gone."""
    schedule, batch = make_schedule(), make_batch()

    def loss(flags: dict[str, Any], forced: dict[str, Any]) -> Tensor:
        config = dataclasses.replace(resolved(MethodConfig(objective=name, **flags)), **forced)
        return build_objective(config, schedule)(GaussianRoles(schedule), batch, 0.1).loss

    for flag, value in unread.items():
        with pytest.raises(ValueError, match=f"{flag} has no effect"):
            resolved(MethodConfig(objective=name, **flags, **{flag: value}))
    assert torch.equal(loss(flags, unread), loss(flags, {}))
    reading = (
        asking_the_solver(flags_of(METHODS[name].settings))
        if "solver" in unread
        else {"weighting": "min_snr"}
        if "snr_gamma" in unread
        else {"discretization": "ect"}
        if "ect_q" in unread
        else {"time_distribution": "lognormal"}
        if "lognormal_mean" in unread
        else {}
    )
    # no other loss goes with the first, and nothing is compared in the second
    if name not in ("stochastic_flow", "dmd") or (reading and name != "dmd"):
        assert not torch.equal(loss(reading, unread), loss(reading, {}))


FLAG_VALUES: dict[str, Any] = {
    "num_ddim_timesteps": 50,
    "solver": "ddim",
    "solver_steps": 1,
    "coupling": "solver",
    "loss_type": "l2",
    "huber_c": 0.1,
    "weighting": "snr",
    "snr_gamma": 5.0,
    "target": "ema",
    "ema_decay": 0.9,
    "guidance_scale": 3.0,
    "guidance_scale_min": 2.0,
    "guidance_scale_max": 4.0,
    "guidance_per_phase": [2.0, 3.0],
    "preserve_cfg": True,
    "timestep_scaling_factor": 10.0,
    "skipping_steps": 2,
    "simulated_play": 0.25,
    "simulated_play_warmup_steps": 50,
    "phases": 2,
    "segments": [2, 1],
    "landing_steps": [4],
    "landing_jitter": 0.1,
    "landing_window": 260,
    "rollout_steps": [1, 2],
    "eta": 0.1,
    "discretization": "ect",
    "first_ddim_timesteps": 5,
    "ect_q": 4.0,
    "ect_k": 4.0,
    "ect_b": 4.0,
    "ect_stages": 4,
    "time_distribution": "lognormal",
    "lognormal_mean": -1.0,
    "lognormal_std": 1.4,
    "ema_schedule": "cm",
    "tangent_mode": "jvp",
    "tangent_step": 2,
    "tangent_warmup": 0.2,
    "tangent_normalization": 0.2,
    "learned_weight": True,
    "injection": 0.1,
    "dmd_steps": [1, 2],
    "first_timestep": 799,
    "terms": ["adversarial"],
    "critic_updates": 3,
    "adversarial_real": "images",
    "adversarial_r1": 0.1,
    "dmd_of": "noise",
    "dmd_start": 0.1,
    "reward": "module:function",
    "reward_weights": "weights",
    "reward_share": 0.5,
    "reward_vae": "tiny",
}


@every_method
def test_a_flag_that_the_method_ignores_is_refused_by_name(name: str) -> None:
    assert set(FLAG_VALUES) == {f.name for f in dataclasses.fields(MethodConfig)} - {
        "objective",
        "as_control",
        "method_args",
    }
    ignored = set(FLAG_VALUES) - set(flags_of(METHODS[name].settings))
    assert ignored
    for flag in sorted(ignored):
        with pytest.raises(ValueError, match=f"{flag} has no effect with objective {name}"):
            resolved(MethodConfig(objective=name, **{flag: FLAG_VALUES[flag]}))


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("flowmap", {}, r"unknown objective 'flowmap'.*Did you mean 'flow_map'"),
        ("lcm", {"solver": "huen"}, r"unknown solver 'huen'.*Did you mean 'heun'"),
        ("lcm", {"loss_type": "couchy"}, r"unknown loss_type 'couchy'.*Did you mean 'cauchy'"),
        ("lcm", {"weighting": "minsnr"}, r"unknown weighting 'minsnr'.*Did you mean 'min_snr'"),
        (
            "flow_map",
            {"coupling": "samenoise"},
            r"unknown coupling 'samenoise'.*Did you mean 'same_noise'",
        ),
        (
            "ct",
            {"discretization": "refine"},
            r"unknown discretization 'refine'.*Did you mean 'refined'",
        ),
        ("scm", {"tangent_mode": "jpv"}, r"unknown tangent_mode 'jpv'.*Did you mean 'jvp'"),
        (
            "pcm",
            {"phases": 3},
            r"phases=3 does not divide a grid of 40.*some of \[1, 2, 4, 5, 8, 10, 20, 40\]",
        ),
        (
            "pcm",
            {"phases": 8, "num_ddim_timesteps": 50},
            r"phases=8 does not divide a grid of 50.*num_ddim_timesteps 40",
        ),
        ("tscd", {"segments": [8, 3]}, "segments=3 does not divide"),
        (
            "tscd",
            {"segments": [8, 4], "eta": 0.3},
            "eta=0.3 lands below the edge.*let segments end in 1, or pass --eta 0",
        ),
        ("flow_map", {"phases": 3}, "phases=3 does not divide"),
        ("phased_scm", {"phases": 3}, "phases=3 does not divide"),
        ("rollout", {"rollout_steps": [4, 3]}, r"rollout_steps=3 does not divide 1000.*\[1, 2, 4"),
        (
            "endpoint",
            {"num_ddim_timesteps": 30},
            r"num_ddim_timesteps=30 does not divide 1000.*one of \[1, 2, 4, 5, 8, 10, 20,",
        ),
        (
            "ct",
            {"first_ddim_timesteps": 100, "num_ddim_timesteps": 50},
            "first_ddim_timesteps=100 must lie in",
        ),
        ("pcm", {"guidance_per_phase": [2.0, 3.0]}, "a value for each of the 4 phases"),
    ],
)
def test_flags_that_make_no_sense_are_refused_with_a_way_out(
    name: str, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_objective(name, **flags)
