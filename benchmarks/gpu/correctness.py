"""Whether the toolkit is right on the card: the loss scaler of float16, and a run that goes on from
a checkpoint. On the tiny world.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.plan import Bench
from benchmarks.gpu.shapes import Shapes
from benchmarks.gpu.worlds import precision_of
from lcm.outputs.checkpoint import load_checkpoint, save_checkpoint
from lcm.training.encode import encode
from lcm.training.run import Run
from lcm.training.setup import make_state
from lcm.training.state import TrainState
from lcm.training.step import train_step

IMAGES, TINY_IMAGES = 64, 4
BATCH, TINY_BATCH = 16, 2
UPDATES, TINY_UPDATES = 40, 2
GROWS_AFTER = 3
"""Updates without overflow until the scale doubles; 2000 by default."""
MOST_UPDATES = 40


def measure(bench: Bench, what: str, **options: Any) -> dict[str, Any]:
    """One of the questions."""
    return QUESTIONS[what](bench, **options)


def make(bench: Bench, precision: str) -> Shapes:
    """The world in which they are asked."""
    return Shapes.make(bench, precision, TINY_IMAGES if bench.tiny else IMAGES)


def update(world: Shapes, run: Run, state: TrainState) -> float:
    """One update; its loss."""
    batch = world.batch(state.step, run.config.loop.train_batch_size)
    return float(train_step(run, state, iter([batch])).loss.mean())


# --- the loss scaler ------------------------------------------------------------------------------


def measure_scaler(bench: Bench) -> dict[str, Any]:
    """Whether losses are finite and those of float32, the scale grows after good updates, and an
    infinite gradient makes an update be skipped that leaves no trace but a halved scale.

    accelerate has no fp16 on a CPU: there a scaler beside float32 stands in.
    """
    size = TINY_BATCH if bench.tiny else BATCH
    # the reference first: accelerate has one precision for all of a process, that of the last run,
    # and without fp16 no gradient is unscaled before it is clipped
    reference = make(bench, "no")
    exact = first_loss(reference, *reference.run(size), size)
    world = make(bench, "fp16")
    stand_in = None if bench.device.is_gpu else torch.amp.GradScaler(bench.device.torch.type)
    run, state = world.run(size, scaler=stand_in)
    scaler = run.machine.accelerator.scaler
    assert scaler is not None
    first = first_loss(world, run, state, size)
    scaler.set_growth_interval(GROWS_AFTER)
    losses: list[float] = []
    scales = [scaler.get_scale()]
    # its first scale may be too large, and is halved until it is not
    while len(losses) < MOST_UPDATES and (state.skipped or not grows(scales)):
        losses.append(update(world, run, state))
        scales.append(scaler.get_scale())
    scaler.set_growth_interval(MOST_UPDATES * 1000)
    before = [p.detach().clone() for p in state.student.parameters]
    rate, scale = state.lr_scheduler.last_epoch, scaler.get_scale()
    with infinite_gradient(state.student.parameters[0]):
        update(world, run, state)
    same = same_values(before, state.student.parameters)
    skipped, halved = state.skipped, scaler.get_scale()
    held = state.lr_scheduler.last_epoch == rate
    losses.append(update(world, run, state))
    return {
        "precision": precision_of(bench, "fp16"),
        "loss": first,
        "float32_loss": exact,
        "losses": losses,
        "scales": scales,
        "checks": {
            "losses are finite": bool(torch.tensor(losses).isfinite().all()),
            "the scale grows": grows(scales),
            "an infinite gradient is skipped": skipped == 1 and same,
            "the scale is halved for it": halved == scale / 2.0,
            "the learning rate waits": held,
            "the next update is made": state.skipped == 0
            and not same_values(before, state.student.parameters),
        },
    }


def grows(scales: list[float]) -> bool:
    """Whether one is larger than the one before it."""
    return any(b > a for a, b in itertools.pairwise(scales))


@torch.no_grad()
def first_loss(world: Shapes, run: Run, state: TrainState, size: int) -> float:
    """The loss of the first batch before any update."""
    latents = encode(run.family, world.batch(0, size), run.machine.device)
    return float(run.objective(state.student.nets, latents).loss.mean())


@contextmanager
def infinite_gradient(parameter: Tensor) -> Iterator[None]:
    """Inside the block the gradient of this parameter overflows."""
    handle = parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    try:
        yield
    finally:
        handle.remove()


def same_values(before: list[Tensor], now: Any) -> bool:
    """Whether all are the same, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(before, now, strict=True))


# --- going on -------------------------------------------------------------------------------------


def measure_resume(bench: Bench, precision: str) -> dict[str, Any]:
    """The difference between N updates and N / 2, a checkpoint, and N / 2 more; and between N
    updates and the same again, which no checkpoint can undercut. Where these differ, all is
    repeated with deterministic kernels.
    """
    world, updates = make(bench, precision), TINY_UPDATES if bench.tiny else UPDATES
    result: dict[str, Any] = {
        "precision": precision_of(bench, precision),
        "updates": updates,
        "as it is": compare(world, updates),
    }
    if result["as it is"]["again"]["different"]:
        with deterministic():
            result["deterministic kernels"] = compare(world, updates)
    return result


@contextmanager
def deterministic() -> Iterator[None]:
    """Kernels that give the same result every time, where there are some."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def compare(world: Shapes, updates: int) -> dict[str, Any]:
    """The differences that `measure_resume` tells of."""
    straight = trained(world, updates)
    return {
        "again": difference(straight, trained(world, updates)),
        "resumed": difference(straight, trained(world, updates, interrupted=True)),
    }


def trained(world: Shapes, updates: int, *, interrupted: bool = False) -> dict[str, Tensor]:
    """Everything that a checkpoint holds after the updates."""
    size = TINY_BATCH if world.bench.tiny else BATCH
    flags = {"lora_dropout": 0.1, "export_ema_decay": 0.9}
    run, state = world.run(size, **flags)
    if interrupted:
        while state.step < updates // 2:
            update(world, run, state)
        with tempfile.TemporaryDirectory() as folder:
            record = state.record(run.facts.record())
            saved = load_checkpoint(save_checkpoint(Path(folder), state.step, record))
        run, state = world.run(size, **flags)
        state = make_state(run, state.student, saved)
    while state.step < updates:
        update(world, run, state)
    tensors = state.record({}).tensors
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Any]:
    """How many of these tensors differ in a bit, and by how much at most."""
    different = [name for name in a if not torch.equal(a[name], b[name])]
    largest = max(
        (float((a[n].double() - b[n].double()).abs().max()) for n in different), default=0
    )
    return {"tensors": len(a), "different": len(different), "largest": largest}


QUESTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "scaler": measure_scaler,
    "resume": measure_resume,
}
