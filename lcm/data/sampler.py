"""Which samples come in which batch, on which process, by the number of the step."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count, islice

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from lcm.data.batch import Sample, SampleRef
from lcm.data.dataset import TrainDataset
from lcm.data.randomness import sample_rng


class StepSampler:
    """Batches of sample references for steps first_step..last_step of one process.

    The samples of a group, one bucket of shapes, form one endless stream, epoch after epoch, each a
    fresh permutation. Every step takes the next stretch of one group's stream, so that all its
    batches have one shape, whatever the number of processes: `processes x accumulation` is what
    divides a step into batches. Groups take turns at random, as often as their size asks for.
    """

    def __init__(
        self,
        groups: Sequence[npt.NDArray[np.int64]],
        batch_size: int,
        *,
        accumulation: int,
        process: tuple[int, int],
        steps: range,
        seed: int,
    ) -> None:
        self.groups = groups
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.rank, self.num_processes = process
        self.steps = steps
        self.seed = seed
        self.permutation = lru_cache(maxsize=2 * len(groups))(self._permutation)

    def __len__(self) -> int:
        return len(self.steps) * self.accumulation

    def __iter__(self) -> Iterator[list[SampleRef]]:
        for group, turn in islice(self.turns(), self.steps.start, self.steps.stop):
            for micro in range(self.accumulation):
                batch = (turn * self.accumulation + micro) * self.num_processes + self.rank
                yield [
                    self._ref(group, batch * self.batch_size + i) for i in range(self.batch_size)
                ]

    def turns(self) -> Iterator[tuple[int, int]]:
        """(group, how many steps it had before) of every step, from the first on."""
        streams = (self._times(group) for group in range(len(self.groups)))
        return ((group, turn) for _, group, turn in heapq.merge(*streams))

    def _times(self, group: int) -> Iterator[tuple[float, int, int]]:
        """When its steps are due, in epochs: one at a random moment of each of the equal intervals
        that its size makes.
        """
        rng = np.random.default_rng([self.seed, group])
        interval = (
            self.batch_size * self.accumulation * self.num_processes / len(self.groups[group])
        )
        return (((turn + rng.random()) * interval, group, turn) for turn in count())

    def _permutation(self, group: int, epoch: int) -> npt.NDArray[np.int64]:
        # one group draws what it did before there were several
        seed = [self.seed, epoch, group] if group else [self.seed, epoch]
        return np.random.default_rng(seed).permutation(self.groups[group])

    def _ref(self, group: int, position: int) -> SampleRef:
        epoch, offset = divmod(position, len(self.groups[group]))
        return epoch, int(self.permutation(group, epoch)[offset])


def teacher_of(seed: int, step: int, count: int) -> int:
    """Which of `count` teachers an update is made on: every one once in `count` updates, in an
    order of their own.
    """
    turn, place = divmod(step, count)
    return int(sample_rng(seed, turn, "teachers").permutation(count)[place])


class MixedDataset(Dataset[Sample]):
    """The samples as each teacher needs them, whose prompts and trajectories are its own. Indexed
    by (teacher, ref).
    """

    def __init__(self, datasets: Sequence[TrainDataset]) -> None:
        self.datasets = datasets

    def __getitem__(self, ref: tuple[int, SampleRef]) -> Sample:
        teacher, of_record = ref
        return dataclasses.replace(self.datasets[teacher][of_record], teacher=teacher)


class MixedSampler:
    """The batches of a StepSampler, each with the teacher of its update, of `count`."""

    def __init__(self, sampler: StepSampler, count: int) -> None:
        self.sampler, self.count = sampler, count

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[int, SampleRef]]]:
        first, accumulation = self.sampler.steps.start, self.sampler.accumulation
        for number, refs in enumerate(self.sampler):
            teacher = teacher_of(self.sampler.seed, first + number // accumulation, self.count)
            yield [(teacher, ref) for ref in refs]
