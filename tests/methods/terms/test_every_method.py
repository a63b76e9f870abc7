"""Every term with every method: it runs, sample by sample, or is refused with a way out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lcm.methods import METHODS
from lcm.methods.config import MethodConfig, resolved
from lcm.methods.context import Draws, Landed, LatentBatch, Numbers
from lcm.methods.objective import Objective
from lcm.methods.terms import TERMS
from lcm.methods.terms.build import read_terms
from lcm.methods.terms.term import TermKind
from tests.support.closed_forms import GaussianRoles, batch_for, make_batch, make_objective, rows
from tests.support.schedules import make_schedule
from tests.support.terms import vary_second, with_second
from tests.support.worlds import build_unet

PAIRED = {"lcm", "cd", "ct", "endpoint", "reflow", "rollout"}
ALLOWED = {
    "latent_perceptual": PAIRED,
    "adversarial": METHODS.keys() - {"stochastic_flow"},
    "dmd": PAIRED | {"scm", "dmd", "tscd", "hyper"},
    "reward": PAIRED | {"scm", "dmd"},
}
"""The methods, as they are set by themselves, that a term stands beside: those that land on two
pictures to compare; on one point; on a picture, or play from noise to picture in one step; on a
picture.
"""
every_pair = pytest.mark.parametrize(
    ("term", "name"), [(term, name) for term in TERMS for name in METHODS]
)


def flags_with(term: str) -> dict[str, Any]:
    return {"terms": [term], **({"reward": "some:where"} if term == "reward" else {})}


def exactly_for(objective: Objective, batch: LatentBatch) -> LatentBatch:
    """With as many random numbers as are asked for, and no more."""
    noises, uniforms = objective.extra_numbers
    assert batch.extra_noise is not None and batch.extra_uniform is not None
    assert noises <= batch.extra_noise.shape[1] and uniforms <= batch.extra_uniform.shape[1]
    return dataclasses.replace(
        batch,
        extra_noise=batch.extra_noise[:, :noises] if noises else None,
        extra_uniform=batch.extra_uniform[:, :uniforms] if uniforms else None,
    )


def all_values(objective: Objective, nets: Any, batch: LatentBatch) -> dict[str, Tensor]:
    """The loss, every term of it, and the losses of the critics in each of their updates."""
    output = objective(nets, batch, 0.9)
    values = {"loss": output.loss.detach(), **output.terms}
    assert (output.landed is None) == (not objective.critics)
    if output.landed is not None:
        for update in range(objective.critic_updates):
            for critic, loss in objective.critic_losses(output.landed, update).items():
                values[f"{critic} {update}"] = loss.detach()
    return values


@every_pair
def test_it_runs_or_is_refused_with_a_way_out(term: str, name: str) -> None:
    schedule, flags = make_schedule(), flags_with(term)
    if name not in ALLOWED[term]:
        with pytest.raises(ValueError, match=rf"^terms: {term} .*; (use|pass) ") as refusal:
            make_objective(name, schedule, **flags)
        way_out = str(refusal.value).rpartition(";")[2].replace(",", " ").split()
        for method in METHODS.keys() & way_out:
            make_objective(method, schedule, **flags)
        return
    critics = {"adversarial", "dmd"} & {term}
    objective = make_objective(
        name, schedule, **flags, **({"critic_updates": 2} if critics else {})
    )
    batch, nets = exactly_for(objective, make_batch(4)), GaussianRoles(schedule)
    together = all_values(objective, nets, batch)
    assert len(together) == 2 + 2 * len(critics)
    for value in together.values():
        assert value.shape == (4,) and value.isfinite().all()
    for critic in objective.critics:  # has new numbers in every update
        assert not torch.equal(together[f"{critic.name} 0"], together[f"{critic.name} 1"])
    order = torch.tensor([2, 0])
    for part, value in all_values(objective, nets, rows(batch, order)).items():
        torch.testing.assert_close(value, together[part][order], rtol=1e-3, atol=1e-5, msg=part)


@pytest.mark.parametrize("name", ["lcm", "hyper"])
def test_samples_of_real_networks_do_not_influence_each_other(name: str) -> None:
    unet = build_unet()
    nets = with_second(unet)
    vary_second(nets)
    terms = ["adversarial", "dmd=0.3"]
    flags: dict[str, Any] = {"terms": terms, "adversarial_r1": 0.5, "critic_updates": 2}
    if name == "lcm":
        flags |= {"terms": [*terms, "latent_perceptual", "reward=0.1"], "reward": "some:where"}
    objective = make_objective(name, **flags)
    batch = exactly_for(objective, batch_for(unet, 2))
    together = all_values(objective, nets, batch)
    assert len(together) == 1 + len(flags["terms"]) + 4
    for i in range(2):
        for part, value in all_values(objective, nets, rows(batch, torch.tensor([i]))).items():
            torch.testing.assert_close(value, together[part][i : i + 1], rtol=2e-3, atol=1e-4)


def test_the_weighted_terms_are_added_to_the_loss() -> None:
    schedule, batch = make_schedule(), make_batch(4)
    nets = GaussianRoles(schedule)
    alone = make_objective("lcm", schedule, weighting="uniform")(nets, batch).loss
    terms = ["latent_perceptual=0.5", "adversarial=2", "dmd"]
    output = make_objective("lcm", schedule, terms=terms, weighting="uniform")(nets, batch)
    found = output.terms
    assert list(found) == ["latent_perceptual", "adversarial", "dmd"]
    expected = alone + 0.5 * found["latent_perceptual"] + 2.0 * found["adversarial"] + found["dmd"]
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adversaria"], "unknown terms 'adversaria'.*Did you mean 'adversarial'"),
        (["dmd", "dmd=2"], "terms names dmd twice; leave one of them out"),
        *(
            ([f"dmd={text}"], f"terms: the weight of dmd must be a positive number.*got '{text}'")
            for text in ("", "0", "-1", "nan", "inf", "much", "1,5")
        ),
        (
            ["reward"],
            "terms: reward needs one; pass --reward clip, pick_score, hpsv2 or module:function",
        ),
    ],
)
def test_words_that_name_no_term_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_objective("lcm", terms=words)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"adversarial_r1": 1.0}, "adversarial_r1 .*without the term adversarial.*pass --terms"),
        ({"terms": ["adversarial"], "dmd_start": 0.5}, "dmd_start .*without the term dmd"),
        ({"terms": ["dmd"], "reward_share": 0.5}, "reward_share .*without the term reward"),
        ({"terms": ["latent_perceptual"], "critic_updates": 3}, "critic_updates .*has a critic"),
    ],
)
def test_flags_of_a_term_have_no_effect_without_it(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolved(MethodConfig(objective="lcm", **flags))


# --- from outside ---------------------------------------------------------------------------------


class Scale:
    """A critic that learns how large the points are."""

    name, is_second, numbers = "scale", False, Numbers(0, 1)

    def __init__(self) -> None:
        self.parameters = [nn.Parameter(torch.zeros(()))]

    def __call__(self, landed: Landed, draws: Draws) -> Tensor:
        size = landed.point.square().mean((1, 2, 3))
        return (self.parameters[0] - size).square() + draws.uniform()


class Pull:
    """Pulls the landing point to a noise of its own."""

    name, start, numbers = "pull", 0.0, Numbers(1, 0)

    def __init__(self, weight: float) -> None:
        self.weight, self.critic = weight, Scale()

    def __call__(self, landed: Landed, draws: Draws) -> Tensor:
        return (landed.point - draws.noise()).square().flatten(1).mean(1)


@pytest.fixture
def pull() -> Iterator[None]:
    kind = TermKind(lambda *built: Pull(built[2]), weight=3.0, has_critic=True)  # type: ignore
    TERMS.add("pull", kind)
    yield
    del TERMS._known["pull"]


def test_a_term_from_outside_is_one_of_them(pull: None) -> None:
    assert read_terms(["pull"]) == {"pull": 3.0}
    with pytest.raises(ValueError, match=r"unknown terms 'pul'.*Did you mean 'pull'"):
        read_terms(["pul"])
    schedule = make_schedule()
    nets, batch = GaussianRoles(schedule), make_batch(4)
    objective = make_objective("pcm", schedule, terms=["pull=0.5"], critic_updates=2)
    assert objective.extra_numbers == Numbers(1, 2)
    output = objective(nets, exactly_for(objective, batch))
    alone = make_objective("pcm", schedule)(nets, batch)
    assert output.landed is not None and batch.extra_uniform is not None
    expected = (output.landed.point - batch.extra_noise[:, 0]).square().mean((1, 2, 3))  # type: ignore
    torch.testing.assert_close(output.terms["pull"], expected)
    torch.testing.assert_close(output.loss, alone.loss + 0.5 * expected)
    size = output.landed.point.square().mean((1, 2, 3))
    for update in (0, 1):
        losses = objective.critic_losses(output.landed, update)
        expected = size.square() + batch.extra_uniform[:, update]
        torch.testing.assert_close(losses["scale"].detach(), expected)
