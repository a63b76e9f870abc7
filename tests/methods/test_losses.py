"""Laws of the loss of every method in METHODS, on real tiny networks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.diffusion.tables import LOSSES, SOLVERS
from lcm.methods import METHODS
from lcm.methods.config import flags_of
from tests.support.closed_forms import GaussianRoles, make_batch, make_objective, rows
from tests.support.methods import (
    COMPARING,
    TRAINS_PURE_NOISE,
    asking_the_solver,
    every_comparing_method,
    every_method,
    without_terms,
)
from tests.support.schedules import make_schedule
from tests.support.terms import with_second
from tests.support.worlds import build_sdxl_unet, build_unet

every_unet = pytest.mark.parametrize(
    ("build", "width", "pooled"), [(build_unet, 16, None), (build_sdxl_unet, 32, 16)]
)


def every_method_with(*options: dict[str, Any]) -> pytest.MarkDecorator:
    """Each of the flags, where the method has them; a solver with the coupling that asks it."""
    pairs = []
    for name, flags in itertools.product(METHODS, options):
        if set(flags) <= set(own := flags_of(METHODS[name].settings)) and (
            name in COMPARING or not flags.keys() & {"solver", "weighting"}
        ):
            pairs.append(
                (
                    name,
                    {**flags, **asking_the_solver(own)} if "solver" in flags else flags,
                )
            )
    return pytest.mark.parametrize(("name", "flags"), pairs, ids=str)


def few_solver_steps(name: str) -> dict[str, Any]:
    """On networks without a closed form two steps of the solver say as much as eight."""
    return {"solver_steps": 2} if name == "flow_map" else {}


@every_method
def test_samples_do_not_influence_each_other(name: str) -> None:
    nets = with_second(build_unet())
    batch = make_batch(4)
    objective = make_objective(name, **few_solver_steps(name))
    together = objective(nets, batch, 0.5).loss.detach()
    assert together.shape == (4,)
    single = torch.cat(
        [objective(nets, rows(batch, torch.tensor([i])), 0.5).loss for i in range(4)]
    )
    torch.testing.assert_close(together, single, rtol=1e-3, atol=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        objective(nets, rows(batch, order), 0.5).loss, together[order], rtol=1e-3, atol=1e-5
    )


@every_method
@every_unet
def test_gradients_arrive_on_all_adapter_tensors_and_nowhere_else(
    name: str, build: Callable[[], Any], width: int, pooled: int | None
) -> None:
    unet = build()
    nets, batch = with_second(unet), make_batch(3, width=width, pooled=pooled)
    make_objective(name, **few_solver_steps(name))(nets, batch, 0.5).loss.mean().backward()
    for parameter_name, parameter in unet.named_parameters():
        if ".lora_" in parameter_name:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
        else:
            assert parameter.grad is None, parameter_name


@every_comparing_method
@every_unet
def test_the_loss_of_one_batch_falls_against_a_target_that_stands_still(
    name: str, build: Callable[[], Any], width: int, pooled: int | None
) -> None:
    """The online target of a bootstrapped loss moves with the student, so that loss need not
    fall. Nor need that of terms, which have laws of their own.
    """
    unet = build()
    nets = with_second(unet, ema_decay=1.0)
    batch = rows(make_batch(width=width, pooled=pooled), torch.tensor([1, 2, 3]))
    flags = {**few_solver_steps(name), **without_terms(name)}
    objective, losses = make_objective(name, **flags), []
    optimizer = torch.optim.Adam([p for p in unet.parameters() if p.requires_grad], 1e-3)
    for _ in range(8):
        loss = objective(nets, batch, 0.1).loss.mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.96 * losses[0]


@every_method_with(
    {},
    {"tangent_mode": "fd"},
    {"tangent_mode": "central"},
    {"tangent_mode": "jvp"},
    {"rollout_steps": [1, 2, 4]},
    {"solver": "heun"},
    {"solver": "dpm_solver_pp_2m", "solver_steps": 3},
)
def test_networks_that_are_one_function_have_one_loss(name: str, flags: dict[str, Any]) -> None:
    batch, losses = make_batch(), {}
    if METHODS[name].settings.weighting == "balanced":
        flags = {**flags, "weighting": "uniform"}  # the other weighs by what is predicted
    for prediction_type in PREDICTION_TYPES:
        schedule = make_schedule(prediction_type)
        losses[prediction_type] = make_objective(name, schedule, **flags)(
            GaussianRoles(schedule), batch, 0.5
        ).loss
    assert losses["epsilon"].abs().min() > 1e-5
    for prediction_type in ("v_prediction", "sample"):
        torch.testing.assert_close(losses[prediction_type], losses["epsilon"], rtol=1e-3, atol=1e-5)


@every_method_with(
    *({"weighting": w} for w in TRAINS_PURE_NOISE),
    *({"solver": s, "solver_steps": 3} for s in SOLVERS),
)
def test_zero_terminal_snr_gives_finite_losses_and_gradients(
    name: str, flags: dict[str, Any]
) -> None:
    schedule = make_schedule("v_prediction", zero_snr=True)
    assert float(schedule.alphas[999]) == 0.0
    nets = GaussianRoles(schedule)
    nets.strength.requires_grad_()
    batch = dataclasses.replace(
        make_batch(), uniform_time=torch.tensor([0.9999, 0.9999, 0.98, 0.9, 0.5, 0.0])
    )
    for progress in (0.0, 0.05, 0.999):
        loss = make_objective(name, schedule, **flags)(nets, batch, progress).loss
        assert loss.isfinite().all()
        assert torch.autograd.grad(loss.sum(), nets.strength)[0].isfinite()


def test_every_loss_of_the_registry_runs_with_every_method() -> None:
    """Except energy, which is refused with all but one."""
    schedule, batch = make_schedule(), make_batch()
    for name in COMPARING:
        for loss_type in (
            LOSSES if name == "stochastic_flow" else [loss for loss in LOSSES if loss != "energy"]
        ):
            objective = make_objective(name, schedule, loss_type=loss_type, as_control=True)
            assert objective(GaussianRoles(schedule), batch, 0.5).loss.isfinite().all()
