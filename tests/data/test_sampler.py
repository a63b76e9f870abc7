"""The order of samples: all once an epoch, in batches of one shape, however a step is divided."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lcm.data.sampler import StepSampler


def refs(
    samples: int,
    batch: int,
    accumulation: int = 1,
    process: tuple[int, int] = (0, 1),
    steps: range = range(6),
    seed: int = 3,
) -> list[list[tuple[int, int]]]:
    return list(
        StepSampler(
            [np.arange(samples)],
            batch,
            accumulation=accumulation,
            process=process,
            steps=steps,
            seed=seed,
        )
    )


def by_step(
    samples: int, processes: int, accumulation: int, batch: int, steps: range = range(6)
) -> list[Counter[tuple[int, int]]]:
    """What all processes together take in each step."""
    found: list[Counter[tuple[int, int]]] = [Counter() for _ in steps]
    for rank in range(processes):
        for i, group in enumerate(refs(samples, batch, accumulation, (rank, processes), steps)):
            found[i // accumulation].update(group)
    return found


DIVISIONS = [
    (p, a, 12 // (p * a))
    for p in (1, 2, 3, 4, 6, 12)
    for a in (1, 2, 3, 4, 6, 12)
    if 12 % (p * a) == 0
]


@pytest.mark.parametrize("samples", [5, 12, 31])
@pytest.mark.parametrize(("processes", "accumulation", "batch"), DIVISIONS)
def test_a_step_takes_the_same_samples_however_it_is_divided(
    samples: int, processes: int, accumulation: int, batch: int
) -> None:
    assert by_step(samples, processes, accumulation, batch) == by_step(samples, 1, 1, 12)


@pytest.mark.parametrize("samples", [1, 2, 5, 7, 8, 30])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_every_epoch_takes_every_record_once(samples: int, batch: int) -> None:
    epochs = 3
    steps = range(-(-epochs * samples // batch))
    stream = [ref for group in refs(samples, batch, steps=steps) for ref in group]
    for epoch in range(epochs):
        stretch = stream[epoch * samples : (epoch + 1) * samples]
        assert [e for e, _ in stretch] == [epoch] * samples
        assert sorted(index for _, index in stretch) == list(range(samples))


def test_every_epoch_and_every_seed_has_an_order_of_its_own() -> None:
    orders = [
        [i for _, i in refs(50, 50, steps=range(3), seed=seed)[epoch]]
        for seed in (0, 1)
        for epoch in range(3)
    ]
    assert len({tuple(order) for order in orders}) == 6
    assert list(range(50)) not in orders


@pytest.mark.parametrize("first", [0, 1, 5, 9, 10])
@pytest.mark.parametrize(("accumulation", "process"), [(1, (0, 1)), (3, (0, 1)), (2, (1, 3))])
def test_resuming_gives_the_rest_of_the_sequence(
    first: int, accumulation: int, process: tuple[int, int]
) -> None:
    whole = refs(7, 2, accumulation, process, range(10))
    assert refs(7, 2, accumulation, process, range(first, 10)) == whole[first * accumulation :]


@pytest.mark.parametrize(
    ("steps", "accumulation", "length"),
    [(range(6), 1, 6), (range(6), 4, 24), (range(4, 6), 3, 6), (range(0), 2, 0)],
)
def test_the_length_is_the_number_of_batches(steps: range, accumulation: int, length: int) -> None:
    sampler = StepSampler(
        [np.arange(5)], 2, accumulation=accumulation, process=(1, 2), steps=steps, seed=0
    )
    assert len(sampler) == len(list(sampler)) == length
    assert list(sampler) == list(sampler)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_fewer_samples_than_one_batch_are_taken_again(samples: int) -> None:
    groups = refs(samples, 10, steps=range(3))
    assert [len(group) for group in groups] == [10, 10, 10]
    stream = [ref for group in groups for ref in group]
    assert len(set(stream)) == 30  # the same record, in another epoch
    counts = Counter(index for _, index in stream)
    assert set(counts) == set(range(samples))
    assert max(counts.values()) - min(counts.values()) <= 1


GROUPS = [np.array([0, 3, 6, 7, 9, 10, 11, 12]), np.array([1, 2]), np.array([4, 5, 8])]


def steps_of(
    steps: range, process: tuple[int, int] = (0, 1), batch: int = 4, accumulation: int = 1
) -> list[list[tuple[int, int]]]:
    return list(
        StepSampler(GROUPS, batch, accumulation=accumulation, process=process, steps=steps, seed=5)
    )


def test_all_batches_of_a_step_have_one_shape() -> None:
    group_of = {int(index): number for number, group in enumerate(GROUPS) for index in group}
    ranks = [steps_of(range(30), (rank, 2), batch=2, accumulation=2) for rank in range(2)]
    for step in range(30):
        batches = [ranks[rank][2 * step + micro] for rank in range(2) for micro in range(2)]
        assert len({group_of[index] for batch in batches for _, index in batch}) == 1


@pytest.mark.parametrize(("processes", "accumulation", "batch"), [(2, 1, 4), (1, 4, 2), (4, 2, 1)])
def test_a_step_holds_the_same_samples_however_it_is_divided(
    processes: int, accumulation: int, batch: int
) -> None:
    whole = steps_of(range(20), batch=8)
    parts = [
        steps_of(range(20), (rank, processes), batch, accumulation) for rank in range(processes)
    ]
    for step in range(20):
        divided = [
            ref
            for part in parts
            for refs in part[step * accumulation : (step + 1) * accumulation]
            for ref in refs
        ]
        assert Counter(divided) == Counter(whole[step])


def test_every_sample_comes_once_in_every_epoch() -> None:
    seen = Counter(ref for batch in steps_of(range(400)) for ref in batch)
    assert set(seen.values()) == {1}
    for group in GROUPS:
        last = max(epoch for epoch, index in seen if index in group)
        assert last > 100
        for epoch in range(last):  # the last one is under way
            assert {index for e, index in seen if e == epoch and index in group} == set(
                group.tolist()
            )


def test_groups_keep_pace_with_each_other() -> None:
    for n in (10, 57, 400):
        epochs = Counter(index for batch in steps_of(range(n)) for _, index in batch)
        passed = [sum(epochs[int(i)] for i in group) / len(group) for group in GROUPS]
        # a group is due at a random moment of its interval, one batch long
        assert all(
            abs(p - 4 * n / 13) <= 4 / len(group) + 4 / 13
            for p, group in zip(passed, GROUPS, strict=True)
        )


def test_groups_come_in_no_fixed_order() -> None:
    group_of = {int(index): number for number, group in enumerate(GROUPS) for index in group}
    order = [group_of[batch[0][1]] for batch in steps_of(range(130))]
    rounds = {tuple(order[i : i + 13]) for i in range(0, 130, 13)}
    assert len(rounds) > 5


def test_a_resumed_run_goes_on_with_the_same_batches() -> None:
    assert steps_of(range(17, 40)) == steps_of(range(40))[17:]
