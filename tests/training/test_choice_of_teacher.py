"""Which teacher an update is made on, and how its weights come into the U-Net."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lcm.adapter.lora import add_lora
from lcm.data.buckets import one_square
from lcm.data.sampler import MixedSampler, StepSampler, teacher_of
from lcm.training.teachers import FrozenWeights
from tests.support.runs import same
from tests.support.worlds import build_unet, randomize_lora, vary


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_teacher_has_its_turn_once_in_as_many_updates(count: int) -> None:
    turns = [
        [teacher_of(0, turn * count + place, count) for place in range(count)] for turn in range(40)
    ]
    assert all(sorted(turn) == list(range(count)) for turn in turns)
    if count > 1:
        first = Counter(turn[0] for turn in turns)
        assert len(first) == count  # in random order
        assert [teacher_of(1, step, count) for step in range(40)] != [
            teacher_of(0, step, count) for step in range(40)
        ]


@pytest.mark.parametrize("process", [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 1), (2, 2)])
@pytest.mark.parametrize("first", [0, 3])
def test_the_teacher_follows_from_seed_and_update_alone(
    process: tuple[int, int], batch_size: int, accumulation: int, first: int
) -> None:
    """However many processes and batches share an update, and wherever a run goes on."""
    sampler = StepSampler(
        one_square(16, 10).groups,
        batch_size,
        accumulation=accumulation,
        process=process,
        steps=range(first, 9),
        seed=5,
    )
    chosen = [{teacher for teacher, _ in batch} for batch in MixedSampler(sampler, 3)]
    expected = [{teacher_of(5, step, 3)} for step in range(first, 9) for _ in range(accumulation)]
    assert chosen == expected
    assert [[ref for _, ref in batch] for batch in MixedSampler(sampler, 3)] == list(sampler)


def test_the_weights_of_a_teacher_stand_in_the_unet_and_leave_it() -> None:
    """Expected are outputs and gradients of a U-Net that has these weights and the adapter by
    itself.
    """
    unet, own, other = build_unet(), build_unet(), build_unet()
    vary(own, 1)
    vary(other, 1)
    for network in (unet, own):
        add_lora(network, 2)
        randomize_lora(network)
    weights = FrozenWeights(unet, [other])
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    x, embeds = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 16)
    with weights.active(1):
        here = unet(x, torch.tensor([9, 500]), embeds).sample
        here.square().mean().backward()
    there = own(x, torch.tensor([9, 500]), embeds).sample
    there.square().mean().backward()
    assert torch.equal(here, there)
    for mine, theirs in zip(unet.named_parameters(), own.named_parameters(), strict=True):
        assert (mine[1].grad is None and theirs[1].grad is None) or torch.equal(
            mine[1].grad, theirs[1].grad
        ), mine[0]
    assert same(unet.state_dict(), before)
    with weights.active(0):
        assert same(unet.state_dict(), before)
