"""The distillation step as a whole, against the public script's logic written out on its own."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lcm.adapter.lora import add_lora
from lcm.diffusion.times import GridTimes
from lcm.methods.config import MethodConfig, resolved
from lcm.methods.context import LatentBatch
from lcm.models.conditioning import Conditioning
from lcm.models.families import load_family
from lcm.models.networks import Networks, make_networks
from tests.support.closed_forms import batch_for, make_objective
from tests.support.schedules import SD_BETAS, make_schedule
from tests.support.worlds import build_sdxl_unet, build_unet, randomize_lora

ALPHA_BAR = DDIMScheduler(**SD_BETAS).alphas_cumprod


def make_nets(unet: Any, **options: Any) -> Networks:
    add_lora(unet, 4)
    randomize_lora(unet)
    return make_networks(unet, ema_decay=None, **options)


def published_script(
    unet: Any, batch: LatentBatch, prediction_type: str, w: Tensor, loss_type: str, index: Tensor
) -> Tensor:
    """The step of the public LCM-LoRA scripts for time indices above the first: two teacher calls,
    each converted to x0 and epsilon, guidance in the paper's w on both, DDIM, boundary scalings,
    mean over all elements.
    """
    t, t_prev = (index + 1) * 20 - 1, index * 20 - 1

    def x0_and_eps(out: Tensor, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        a = ALPHA_BAR[time].sqrt().view(-1, 1, 1, 1)
        s = (1 - ALPHA_BAR[time]).sqrt().view(-1, 1, 1, 1)
        if prediction_type == "epsilon":
            return (x - s * out) / a, out
        if prediction_type == "v_prediction":
            return a * x - s * out, a * out + s * x
        return out, (x - a * out) / s

    def boundary(time: Tensor) -> tuple[Tensor, Tensor]:
        scaled = 10.0 * time.float().view(-1, 1, 1, 1)
        return 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25).sqrt()

    def call(x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        out: Tensor = unet(x, time, **conditioning.unet_kwargs()).sample
        return out

    a, s = ALPHA_BAR[t].sqrt().view(-1, 1, 1, 1), (1 - ALPHA_BAR[t]).sqrt().view(-1, 1, 1, 1)
    z = a * batch.x0 + s * batch.noise
    c_skip, c_out = boundary(t)
    model_pred = c_skip * z + c_out * x0_and_eps(call(z, t, batch.cond), z, t)[0]
    with torch.no_grad():
        unet.disable_adapters()
        cond_x0, cond_eps = x0_and_eps(call(z, t, batch.cond), z, t)
        uncond_x0, uncond_eps = x0_and_eps(call(z, t, batch.uncond), z, t)
        unet.enable_adapters()
        w = w.view(-1, 1, 1, 1)
        x0, eps = cond_x0 + w * (cond_x0 - uncond_x0), cond_eps + w * (cond_eps - uncond_eps)
        a = ALPHA_BAR[t_prev].sqrt().view(-1, 1, 1, 1)
        s = (1 - ALPHA_BAR[t_prev]).sqrt().view(-1, 1, 1, 1)
        z_prev = a * x0 + s * eps
        c_skip, c_out = boundary(t_prev)
        target = (
            c_skip * z_prev
            + c_out * x0_and_eps(call(z_prev, t_prev, batch.cond), z_prev, t_prev)[0]
        )
    if loss_type == "l2":
        return ((model_pred - target) ** 2).mean()
    return (((model_pred - target) ** 2 + 0.001**2).sqrt() - 0.001).mean()


@pytest.mark.parametrize("loss_type", ["l2", "huber"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("build", [build_unet, build_sdxl_unet])
def test_loss_and_gradients_equal_the_published_logic(
    build: Any, prediction_type: str, loss_type: str
) -> None:
    unet = build()
    nets = make_nets(unet)
    batch = batch_for(unet)
    objective = make_objective(
        "lcm",
        make_schedule(prediction_type),
        loss_type=loss_type,
        skipping_steps=1,
        weighting="uniform",
        simulated_play=0.0,
        guidance_scale_min=6.0,
        guidance_scale_max=16.0,
    )
    index = (batch.uniform_time * 50).long()
    w = 5.0 + 10.0 * batch.uniform_guidance  # the script's w_min 5 and w_max 15
    lora = [p for p in unet.parameters() if p.requires_grad]
    ours = objective(nets, batch).loss.mean()
    theirs = published_script(unet, batch, prediction_type, w, loss_type, index)
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6)
    gradients, expected = torch.autograd.grad(ours, lora), torch.autograd.grad(theirs, lora)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * largest)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_first_grid_point_is_taught_the_guided_teachers_clean_image(
    prediction_type: str, solver: str
) -> None:
    """Below the first grid point the step lands on clean data, where the target is the solver's own
    answer.
    """
    unet = build_unet()
    nets = make_nets(unet)
    batch = dataclasses.replace(batch_for(unet), uniform_time=torch.zeros(6))
    objective = make_objective(
        "lcm",
        make_schedule(prediction_type),
        loss_type="l2",
        weighting="uniform",
        simulated_play=0.0,
        guidance_scale=3.0,
        solver=solver,
    )
    t = torch.full((6,), 19)
    a, s = ALPHA_BAR[19].sqrt(), (1 - ALPHA_BAR[19]).sqrt()
    x_t = a * batch.x0 + s * batch.noise

    def x0_of(out: Tensor) -> Tensor:
        return {"epsilon": (x_t - s * out) / a, "v_prediction": a * x_t - s * out, "sample": out}[
            prediction_type
        ]

    cond, uncond = nets.teacher(x_t, t, batch.cond), nets.teacher(x_t, t, batch.uncond)
    target = x0_of(uncond + 3.0 * (cond - uncond))
    c_skip, c_out = 0.25 / (190.0**2 + 0.25), 190.0 / (190.0**2 + 0.25) ** 0.5
    landed = c_skip * x_t + c_out * x0_of(nets.student(x_t, t, batch.cond))
    expected = (landed - target).square().mean((1, 2, 3))
    torch.testing.assert_close(objective(nets, batch).loss, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("loss_type", ["l2", "huber", "huber_norm"])
def test_zero_lora_without_guidance_landing_at_u_gives_zero_loss(
    prediction_type: str, loss_type: str
) -> None:
    unet = build_unet()
    add_lora(unet, 4)
    nets = make_networks(unet, ema_decay=None)
    objective = make_objective(
        "lcm", make_schedule(prediction_type), guidance_scale=1.0, loss_type=loss_type
    )
    times = objective.times
    assert isinstance(times, GridTimes)
    landing_at_u = dataclasses.replace(times, landing=lambda t, u, uniform, progress: u)
    objective = dataclasses.replace(objective, times=landing_at_u)
    torch.testing.assert_close(
        objective(nets, batch_for(unet)).loss,
        torch.zeros(6),
        rtol=0,
        atol=2e-4 if loss_type == "huber_norm" else 1e-6,
    )


def test_guidance_one_asks_the_teacher_for_the_condition_only() -> None:
    unet = build_unet()
    nets = make_nets(unet)
    batch = batch_for(unet)
    broken = dataclasses.replace(batch, uncond=batch.uncond.map(lambda part: part * float("nan")))
    objective = make_objective("lcm", guidance_scale=1.0)
    torch.testing.assert_close(objective(nets, broken).loss, objective(nets, batch).loss)


def test_fixed_guidance_ignores_the_random_number_and_a_range_uses_it() -> None:
    unet = build_unet()
    nets = make_nets(unet)
    batch = batch_for(unet)
    other = dataclasses.replace(batch, uniform_guidance=batch.uniform_guidance.flip(0))
    fixed = make_objective("lcm", guidance_scale=4.0)
    ranged = make_objective("lcm", guidance_scale_min=2.0, guidance_scale_max=8.0)
    assert torch.equal(fixed(nets, batch).loss, fixed(nets, other).loss)
    assert not torch.equal(ranged(nets, batch).loss, ranged(nets, other).loss)


def test_samples_do_not_influence_each_other() -> None:
    unet = build_unet()
    nets = make_nets(unet)
    batch, objective = batch_for(unet), make_objective("lcm")

    def row(i: int) -> LatentBatch:
        parts = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
        rows = {
            k: v.map(lambda p: p[i : i + 1]) if isinstance(v, Conditioning) else v[i : i + 1]
            for k, v in parts.items()
            if v is not None
        }
        return LatentBatch(**rows)

    single = torch.cat([objective(nets, row(i)).loss for i in range(6)])
    torch.testing.assert_close(objective(nets, batch).loss, single, rtol=1e-4, atol=1e-5)


def test_target_moves_with_the_student_or_stays_with_the_average() -> None:
    unet = build_unet()
    add_lora(unet, 4)
    average = make_networks(unet, ema_decay=0.9)
    online = make_networks(unet, ema_decay=None)
    batch, objective = batch_for(unet), make_objective("lcm")
    torch.testing.assert_close(objective(online, batch).loss, objective(average, batch).loss)
    randomize_lora(unet)
    assert not torch.allclose(objective(online, batch).loss, objective(average, batch).loss)


def test_zero_terminal_snr_v_prediction_gives_a_finite_loss(sd_v_folder: Any) -> None:
    family = load_family(str(sd_v_folder))
    assert float(family.schedule.alphas[999]) == 0.0
    nets = make_nets(family.unet)
    for solver in ("ddim", "heun"):
        objective = make_objective("lcm", family.schedule, solver=solver)
        assert objective(nets, batch_for(family.unet)).loss.isfinite().all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"guidance_scale": 0.5}, "at least 1"),
        ({"guidance_scale_min": 3.0}, "both or neither"),
        ({"guidance_scale_min": 8.0, "guidance_scale_max": 2.0}, "ascend"),
        ({"solver": "eulr"}, "unknown solver 'eulr'"),
        ({"loss_type": "hubr"}, "Did you mean 'huber'"),
        ({"huber_c": 0.0}, "huber_c"),
    ],
)
def test_contradictory_flags_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolved(MethodConfig(**flags))
