"""Distribution matching on real tiny networks, against its equations written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lcm.adapter.lora import lora_parameters
from lcm.methods.context import Draws, Numbers
from lcm.methods.terms.dmd import FakeScore, ScoreDistillation
from lcm.models.conditioning import Conditioning
from tests.support.closed_forms import GaussianRoles, batch_for, make_batch, make_objective
from tests.support.schedules import make_schedule, stock_ddim
from tests.support.terms import landed_at, vary_second, with_second
from tests.support.worlds import build_unet

every_teacher = pytest.mark.parametrize(
    ("prediction_type", "zero_snr"),
    [("epsilon", False), ("v_prediction", False), ("v_prediction", True)],
)


class ByHand:
    """Denoisers of an untouched teacher, and of a copy that has the second network's values."""

    def __init__(self, prediction_type: str, zero_snr: bool, values: list[torch.nn.Parameter]):
        self.prediction_type = prediction_type
        self.alpha_bar = stock_ddim(prediction_type, zero_snr).alphas_cumprod
        self.base, self.copy = build_unet(), build_unet()
        with_second(self.copy)
        with torch.no_grad():
            for parameter, value in zip(lora_parameters(self.copy), values, strict=True):
                parameter.copy_(value)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        return a.sqrt(), (1 - a).sqrt()

    @torch.no_grad()
    def ask(self, unet: torch.nn.Module, x: Tensor, t: Tensor, said: Conditioning) -> Tensor:
        answer: Tensor = unet(x, t, **said.unet_kwargs()).sample
        return answer

    def x0(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        a, s = self.alpha_sigma(t)
        return (x - s * output) / a if self.prediction_type == "epsilon" else a * x - s * output

    def wanted(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        a, s = self.alpha_sigma(t)
        return eps if self.prediction_type == "epsilon" else a * eps - s * x0


def score_distillation(prediction_type: str, zero_snr: bool, of_noise: bool) -> ScoreDistillation:
    schedule = make_schedule(prediction_type, zero_snr)
    return ScoreDistillation(schedule, 1.0, 0.0, of_noise, FakeScore(schedule))


@every_teacher
def test_where_the_fake_score_is_the_teachers_the_student_has_no_gradient(
    prediction_type: str, zero_snr: bool
) -> None:
    """And has one as soon as the teacher is guided, which moves it away from the fake score."""
    unet = build_unet()
    nets, batch = with_second(unet), batch_for(unet, 4)
    schedule = make_schedule(prediction_type, zero_snr)
    largest = {}
    for scale in (1.0, 5.0):
        objective = make_objective("dmd", schedule, terms=["dmd"], guidance_scale=scale)
        loss = objective(nets, batch).loss.mean()
        gradients = torch.autograd.grad(loss, lora_parameters(unet))
        largest[scale] = max(float(gradient.abs().max()) for gradient in gradients)
    assert largest[5.0] > 1e-4
    assert largest[1.0] < 1e-5 * largest[5.0]


@every_teacher
@pytest.mark.parametrize("guidance_scale", [None, 3.0])
def test_the_gradient_of_the_point_is_that_of_the_paper(
    prediction_type: str, zero_snr: bool, guidance_scale: float | None
) -> None:
    """(x0_fake - x0_teacher) / mean |x - x0_teacher|, over the numbers of a sample; times are those
    from a fiftieth of the schedule up to its last fiftieth.
    """
    unet = build_unet()
    nets, batch = with_second(unet), batch_for(unet, 4)
    hand = ByHand(prediction_type, zero_snr, vary_second(nets).parameters)
    term = score_distillation(prediction_type, zero_snr, of_noise=False)
    landed = landed_at(nets, batch, term.schedule, guidance_scale=guidance_scale)
    assert batch.extra_uniform is not None and batch.extra_noise is not None
    value = term(landed, Draws(batch, Numbers()))
    (gradient,) = torch.autograd.grad(value.sum(), landed.point)

    t, noise = 20 + (960 * batch.extra_uniform[:, 0]).long(), batch.extra_noise[:, 0]
    a, s = hand.alpha_sigma(t)
    x_t = a * batch.x0 + s * noise
    output = hand.ask(hand.base, x_t, t, batch.cond)
    if guidance_scale is not None:
        other = hand.ask(hand.base, x_t, t, batch.uncond)
        output = other + guidance_scale * (output - other)
    teacher = hand.x0(output, x_t, t)
    fake = hand.x0(hand.ask(hand.copy, x_t, t, batch.cond), x_t, t)
    size = (batch.x0 - teacher).abs().mean((1, 2, 3), keepdim=True)
    direction = (fake - teacher) / size
    torch.testing.assert_close(gradient, direction / batch.x0[0].numel(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(
        value.detach(), direction.square().mean((1, 2, 3)) / 2, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize(("uniform", "t"), [(0.0, 20), (0.5, 500), (0.99999999, 979)])
def test_scores_are_compared_neither_at_the_clean_end_nor_in_pure_noise(
    uniform: float, t: int
) -> None:
    term = score_distillation("v_prediction", True, of_noise=False)
    assert term.times(torch.tensor([uniform])).tolist() == [t]


@every_teacher
def test_the_fake_score_is_taught_to_denoise_what_the_student_made(
    prediction_type: str, zero_snr: bool
) -> None:
    """The plain loss of diffusion training, also at the last timestep; by it the second network
    learns, and nothing else.
    """
    unet = build_unet()
    nets, batch = with_second(unet), batch_for(unet, 4)
    second = vary_second(nets)
    hand = ByHand(prediction_type, zero_snr, second.parameters)
    assert batch.extra_uniform is not None and batch.extra_noise is not None
    batch.extra_uniform[0, 0] = 0.99999999
    critic = FakeScore(make_schedule(prediction_type, zero_snr))
    landed = landed_at(nets, batch, critic.schedule, guidance_scale=7.0)
    with second.learning():
        loss = critic(landed.detached(), Draws(batch, Numbers()))
        loss.mean().backward()

    t, noise = (1000 * batch.extra_uniform[:, 0]).long().clamp(max=999), batch.extra_noise[:, 0]
    assert t[0] == 999
    a, s = hand.alpha_sigma(t)
    output = hand.ask(hand.copy, a * batch.x0 + s * noise, t, batch.cond)
    expected = (output - hand.wanted(batch.x0, noise, t)).square().mean((1, 2, 3))
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-6)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in second.parameters)
    assert all(p.grad is None for p in unet.parameters()) and landed.point.grad is None


@every_teacher
def test_of_noise_it_judges_what_one_step_makes_of_pure_noise(
    prediction_type: str, zero_snr: bool
) -> None:
    """Whatever the method landed on; and the fake score learns from the same pictures."""
    unet = build_unet()
    nets, batch = with_second(unet), batch_for(unet, 4)
    vary_second(nets)
    hand = ByHand(prediction_type, zero_snr, lora_parameters(unet))  # the student's values
    term = score_distillation(prediction_type, zero_snr, of_noise=True)
    landed = landed_at(nets, batch, term.schedule, s=499)
    value = term(landed, Draws(batch, Numbers()))
    assert batch.extra_noise is not None
    noise, t = batch.extra_noise[:, 0], torch.full((4,), 999)
    made = hand.x0(hand.ask(hand.copy, noise, t, batch.cond), noise, t)
    learnt_from = landed.detached().point_for(term.critic.name)
    torch.testing.assert_close(learnt_from, made, rtol=1e-3, atol=1e-3)
    assert not learnt_from.requires_grad and torch.equal(landed.point_for("heads"), landed.point)
    gradients = torch.autograd.grad(
        value.sum(), [landed.point, *lora_parameters(unet)], None, True, allow_unused=True
    )
    assert gradients[0] is None
    assert all(part is not None and part.abs().max() > 0 for part in gradients[1:])


@pytest.mark.parametrize("weighting", ["balanced", "uniform", "velocity"])
def test_it_begins_with_its_share_of_the_run(weighting: str) -> None:
    """And counts as little as the distance does at its times, but no more than its own weight."""
    nets, batch = GaussianRoles(make_schedule()), make_batch(2)
    objective = make_objective("lcm", terms=["dmd=0.5"], dmd_start=0.4, weighting=weighting)
    plain = make_objective("lcm", weighting=weighting)
    for progress, names in ((0.0, set()), (0.39, set()), (0.4, {"dmd"}), (0.9, {"dmd"})):
        with torch.no_grad():
            output, alone = objective(nets, batch, progress), plain(nets, batch, progress)
        assert set(output.terms) == names
        times = objective.schedule.alphas[output.times.t] if weighting == "balanced" else 1.0
        added = 0.5 * times * output.terms["dmd"] if names else torch.zeros(2)
        torch.testing.assert_close(output.loss, alone.loss + added)
        assert output.landed is not None
        with torch.no_grad():
            learnt = objective.critic_losses(output.landed, 0)
        assert set(learnt) == ({"fake_score"} if names else set())


def test_a_method_that_is_its_terms_begins_with_one_of_them() -> None:
    with pytest.raises(ValueError, match=r"objective dmd has no loss before.*pass --dmd_start 0"):
        make_objective("dmd", terms=["dmd"], dmd_start=0.4)
    with pytest.raises(ValueError, match=r"objective dmd has no loss but its terms.*--terms dmd"):
        make_objective("dmd", terms=[])
    for flags in ({"dmd_start": 0.0}, {"dmd_start": 0.4, "terms": ["dmd", "adversarial"]}):
        make_objective("dmd", **flags)


def test_a_batch_without_a_term_has_a_gradient_of_zero() -> None:
    """Of a reward on a share of the samples, for one: the other processes wait for it."""
    unet = build_unet()
    nets, batch = with_second(unet), batch_for(unet, 2)
    assert batch.extra_uniform is not None
    batch.extra_uniform.fill_(0.99)
    objective = make_objective("dmd", terms=["reward"], reward="some:where", reward_share=0.5)
    objective(nets, batch).loss.mean().backward()
    assert all(p.grad is not None and not p.grad.any() for p in lora_parameters(unet))
