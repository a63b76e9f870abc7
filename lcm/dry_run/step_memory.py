"""What a step takes of the memory, tried out at some batch sizes, also where it does not fit."""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from lcm.config.run import CHOICES
from lcm.data.batch import collate
from lcm.dry_run.memory_fit import (
    AVERAGES,
    ENCODERS,
    ENCODING,
    MOMENTS,
    TIGHT,
    TRAINED,
    UNET,
    UPDATE,
    Memory,
    worst,
)
from lcm.models.gradient_checkpointing import checkpoint_activations
from lcm.system.memory import counting, held_on, is_out_of_memory, total_memory
from lcm.training.loop import MAX_SKIPPED, Trainer

T = TypeVar("T")

PROBES = (2, 4, 8)
"""Batch sizes that are tried out besides 1 and that of the run: in the smallest, what does not grow
with them hides the rest.
"""


def attempt(trainer: Trainer, function: Callable[[], T]) -> list[T] | None:
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
    trainer.student.optimizer.zero_grad()
    gc.collect()
    if trainer.accelerator.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


@contextmanager
def alone(trainer: Trainer) -> Iterator[None]:
    """Updates inside the block wait for no other process, so that one may fail, and move no
    weight.
    """
    student = trainer.student
    prepared, rates = (
        student.nets.prepared,
        [group["lr"] for group in student.optimizer.param_groups],
    )
    student.nets.prepared = student.unet
    for group in student.optimizer.param_groups:
        group["lr"] = 0.0
    try:
        yield
    finally:
        student.nets.prepared = prepared
        for group, rate in zip(student.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def count_step(trainer: Trainer, batch_size: int) -> dict[str, int]:
    """The most bytes that an update of this batch size has alive above what is held between
    updates, by part.
    """
    student, accelerator, config = trainer.student, trainer.accelerator, trainer.config
    dataset, widest = (
        trainer.dataset(),
        max(trainer.buckets.groups, key=lambda group: trainer.buckets.shape(group[0])),
    )
    progress = trainer.step / config.max_train_steps
    parts = {ENCODING: 0, UPDATE: 0}
    with alone(trainer), counting(accelerator.device) as most:
        for _ in range(
            min(2, config.gradient_accumulation_steps)
        ):  # from the second batch on, gradients are held
            batch = collate([dataset[0, int(widest[i % len(widest)])] for i in range(batch_size)])
            latents = trainer.encode(batch)
            parts[ENCODING] = max(parts[ENCODING], most())
            accelerator.backward(trainer.objective(student.nets, latents, progress).mean())
            parts[UPDATE] = max(parts[UPDATE], most())
            del batch, latents
        accelerator.clip_grad_norm_(student.parameters, config.max_grad_norm)
        student.optimizer.step()
        student.optimizer.zero_grad()
        parts[UPDATE] = max(parts[UPDATE], most())
    return parts


def warm_up(trainer: Trainer) -> None:
    """One sample through an update that the loss scaler, if any, does not skip: the optimizer then
    has its moments.
    """
    for _ in range(MAX_SKIPPED):
        count_step(trainer, 1)
        if not trainer.accelerator.optimizer_step_was_skipped:
            return


def tensors_of(modules: Sequence[nn.Module]) -> list[Tensor]:
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def held_by(trainer: Trainer) -> dict[str, list[Tensor]]:
    """What lies in the memory of the device between updates."""
    student, here = trainer.student, trainer.accelerator.device.type
    moments = [
        value
        for values in student.optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    ]
    encoders: list[nn.Module] = [
        part for family in trainer.families for part in (family.pipe.vae, *family.text_encoders())
    ]
    unets: list[nn.Module] = [family.unet for family in trainer.families]
    parts: dict[str, list[Tensor]] = {
        UNET: [tensor for tensor in tensors_of(unets) if not tensor.requires_grad],
        ENCODERS: tensors_of(encoders),
        TRAINED: list(student.parameters),
        MOMENTS: moments,
        AVERAGES: [
            average
            for ema in (student.nets.ema, student.export_ema)
            if ema
            for average in ema.averages
        ],
    }
    return {
        name: [tensor for tensor in tensors if tensor.device.type == here]
        for name, tensors in parts.items()
    }


def measure_at(trainer: Trainer, batch_size: int) -> Memory | None:
    """With this batch size, of the process that takes most; None where it does not fit."""
    device = trainer.accelerator.device
    sharing = (
        1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", trainer.process[1]))
    )

    def measure() -> Memory:
        steps = {batch_size: count_step(trainer, batch_size)}
        return Memory(total_memory(device) // sharing, held_on(device, held_by(trainer)), steps, {})

    everyone = attempt(trainer, measure)
    return None if everyone is None else worst(everyone)


def measure_steps(trainer: Trainer) -> Memory | None:
    """At some small batch sizes and that of the run, or the largest of its halves that fits. None
    where no sample does.
    """
    if attempt(trainer, lambda: warm_up(trainer)) is None:
        return None
    memory, wanted = measure_at(trainer, 1), trainer.config.train_batch_size
    if memory is None:
        return None
    too_large = wanted + 1
    for size in [*PROBES, *(wanted >> halvings for halvings in range(wanted.bit_length()))]:
        if size >= too_large or size <= max(memory.steps):
            continue  # known by another
        if memory.between + memory.above(size) > memory.total:
            # by the line through the sizes so far; without a GPU, the machine would choke on it
            break
        found = measure_at(trainer, size)
        if found is None:
            memory, too_large = dataclasses.replace(memory, ran_out=True), size
        else:
            memory = dataclasses.replace(memory, steps={**memory.steps, **found.steps})
    if wanted in memory.steps and memory.peak(wanted) <= TIGHT * memory.total:
        return memory
    return dataclasses.replace(memory, recomputing=recomputing_peaks(trainer, memory))


def recomputing_peaks(trainer: Trainer, memory: Memory) -> dict[str, int]:
    """At the batch size of the run, by value of --gradient_checkpointing that recomputes more than
    it does, where that fits.
    """
    config, unet, peaks = trainer.config, trainer.student.unet, {}
    modes = CHOICES["gradient_checkpointing"]
    for mode in modes[modes.index(config.gradient_checkpointing) + 1 :]:
        checkpoint_activations(unet, str(mode))
        found = [measure_at(trainer, size) for size in (1, *PROBES)]
        steps = {
            size: step for part in found if part is not None for size, step in part.steps.items()
        }
        if len(steps) > 1:
            peaks[str(mode)] = dataclasses.replace(memory, steps=steps).peak(
                config.train_batch_size
            )
    unet.disable_gradient_checkpointing()
    checkpoint_activations(unet, config.gradient_checkpointing)
    return peaks
