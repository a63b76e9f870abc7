"""What a step takes of the memory, tried out at some batch sizes, also where it does not fit."""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from lcm.config.run import FIELDS
from lcm.data.batch import SampleBatch, collate
from lcm.dry_run.memory_fit import (
    AVERAGES,
    CRITICS,
    ENCODERS,
    MOMENTS,
    TIGHT,
    TRAINED,
    UNET,
    Memory,
    worst,
)
from lcm.models.gradient_checkpointing import recomputing
from lcm.system.device import empty_cache, has_own_memory
from lcm.system.memory import counting, held_on, is_out_of_memory, total_memory
from lcm.training.run import Run
from lcm.training.state import TrainState
from lcm.training.step import ENCODED, MAX_SKIPPED, UPDATED, train_step

T = TypeVar("T")

PROBES = (2, 4, 8)
"""Batch sizes that are tried out besides 1 and that of the run: in the smallest, what does not grow
with them hides the rest.
"""


def attempt(run: Run, state: TrainState, function: Callable[[], T]) -> list[T] | None:
    """What it returns on every process, for all; None, for all, where memory ran out on one.

    It must not wait for other processes: they may never come.
    """
    result, failed = None, False
    try:
        result = function()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = True
    everyone = gather_object([(failed, result)])
    if not any(failed for failed, _ in everyone):
        return [result for _, result in everyone]
    state.student.optimizer.zero_grad()
    if state.critics is not None:
        state.critics.optimizer.zero_grad()
    gc.collect()
    empty_cache(run.machine.device)
    return None


def widest_batches(run: Run, batch_size: int) -> Iterator[SampleBatch]:
    """Batches of this size, of the bucket with the most pixels."""
    dataset, buckets = run.inputs.dataset(), run.inputs.buckets
    widest = max(buckets.groups, key=lambda group: buckets.shape(group[0]))
    while True:
        yield collate([dataset[0, int(widest[i % len(widest)])] for i in range(batch_size)])


def count_step(run: Run, state: TrainState, batch_size: int) -> dict[str, int]:
    """The most bytes that an update of this batch size has alive above what is held between
    updates, by part of the step.

    The step waits for no other process, so that one may fail, and moves no weight. Of many batches
    two tell all: from the second on, gradients are held.
    """
    alone = dataclasses.replace(
        run,
        machine=run.machine.alone(),
        accumulation=min(2, run.accumulation),
        objective=dataclasses.replace(run.objective, all_terms=True),
    )
    still = dataclasses.replace(state, student=state.student.alone()).unscheduled()
    parts = {ENCODED: 0, UPDATED: 0}
    with still.standing_still(), counting(run.machine.device) as most:

        def passed(part: str) -> None:
            parts[part] = max(parts[part], most())

        train_step(alone, still, widest_batches(alone, batch_size), passed=passed)
    return parts


def warm_up(run: Run, state: TrainState) -> None:
    """One sample through an update that the loss scaler, if any, does not skip: the optimizer then
    has its moments.
    """
    for _ in range(MAX_SKIPPED):
        count_step(run, state, 1)
        if not state.student.was_skipped:
            return


def tensors_of(modules: Sequence[nn.Module]) -> list[Tensor]:
    """All parameters and buffers."""
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def moments_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What an optimizer keeps."""
    kept = (value for values in optimizer.state.values() for value in values.values())
    return [value for value in kept if isinstance(value, Tensor)]


def held_by(run: Run, state: TrainState) -> dict[str, list[Tensor]]:
    """What lies in the memory of the device between updates."""
    here, student, critics = run.machine.device.type, state.student, state.critics
    encoders: list[nn.Module] = [
        part for family in run.families for part in (family.pipe.vae, *family.text_encoders())
    ]
    unets: list[nn.Module] = [family.unet for family in run.families]
    averages = [ema.averages for ema in (student.nets.ema, student.export_ema) if ema]
    parts: dict[str, list[Tensor]] = {
        UNET: [tensor for tensor in tensors_of(unets) if not tensor.requires_grad],
        ENCODERS: tensors_of(encoders),
        TRAINED: list(student.parameters),
        MOMENTS: moments_of(student.optimizer),
        AVERAGES: [tensor for average in averages for tensor in average],
        CRITICS: [*critics.parameters, *moments_of(critics.optimizer)] if critics else [],
    }
    return {
        name: [tensor for tensor in tensors if tensor.device.type == here]
        for name, tensors in parts.items()
    }


def measure_at(run: Run, state: TrainState, batch_size: int) -> Memory | None:
    """What this batch size takes on the process that takes most; None where it does not fit."""
    device, sharing = run.machine.device, 1
    if not has_own_memory(device):
        sharing = int(os.environ.get("LOCAL_WORLD_SIZE", run.machine.process[1]))

    def measure() -> Memory:
        steps = {batch_size: count_step(run, state, batch_size)}
        return Memory(
            total=total_memory(device) // sharing,
            wanted=run.config.loop.train_batch_size,
            held=held_on(device, held_by(run, state)),
            steps=steps,
            besides={},
        )

    everyone = attempt(run, state, measure)
    return None if everyone is None else worst(everyone)


def measure_steps(run: Run, state: TrainState) -> Memory | None:
    """What some small batch sizes take and that of the run, or the largest of its halves that fits.
    None where no sample does.
    """
    if attempt(run, state, lambda: warm_up(run, state)) is None:
        return None
    memory = measure_at(run, state, 1)
    if memory is None:
        return None
    wanted, too_large = memory.wanted, memory.wanted + 1
    halves = [wanted >> halvings for halvings in range(wanted.bit_length())]
    for size in [*PROBES, *halves]:
        if size >= too_large or size <= max(memory.steps):
            continue  # known by another
        if memory.between + memory.above(size) > memory.total:
            # by the line through the sizes so far; without a GPU, the machine would choke on it
            break
        found = measure_at(run, state, size)
        if found is None:
            memory, too_large = dataclasses.replace(memory, ran_out=True), size
        else:
            memory = dataclasses.replace(memory, steps={**memory.steps, **found.steps})
    if wanted in memory.steps and memory.peak() <= TIGHT * memory.total:
        return memory
    return dataclasses.replace(memory, recomputing=recomputing_peaks(run, state, memory))


def recomputing_peaks(run: Run, state: TrainState, memory: Memory) -> dict[str, int]:
    """The peak at the batch size of the run, by value of --gradient_checkpointing that recomputes
    more than it does, where that fits.
    """
    present, peaks = run.config.loop.gradient_checkpointing, {}
    modes = FIELDS["gradient_checkpointing"].metadata["flag"].choices
    for mode in modes[modes.index(present) + 1 :]:
        with recomputing(state.student.unet, mode, otherwise=present):
            found = [measure_at(run, state, size) for size in (1, *PROBES)]
        steps = {
            size: step for part in found if part is not None for size, step in part.steps.items()
        }
        if len(steps) > 1:
            peaks[mode] = dataclasses.replace(memory, steps=steps).peak()
    return peaks
