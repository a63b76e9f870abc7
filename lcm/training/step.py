"""One update: encode, loss, backward, clip, check, update, and then the critics, if any, learn from
where the student landed. The only training step there is; the loop makes it, and so does the dry
run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from lcm.data.batch import SampleBatch
from lcm.data.randomness import sample_rng
from lcm.methods.context import Landed, LossOutput
from lcm.outputs.checkpoint import list_checkpoints
from lcm.system.signals import never
from lcm.system.transfers import fetched
from lcm.training.encode import encode
from lcm.training.run import Run
from lcm.training.state import TrainState

MAX_SKIPPED = 50
"""Updates that the fp16 loss scaler may skip in a row: it halves its scale of 65536 each time, so
it settles in 17.
"""
ENCODED, UPDATED = "encoding", "update"
"""The parts of a step, told as each of them has passed."""


class StepOutput(NamedTuple):
    """What an update shows: `loss` [n] and `times` [n] of this process's samples, `grad_norm` [],
    and whether any process was asked to stop; the means of the terms and of the critics' losses
    over this process's samples, by name.
    """

    loss: Tensor
    times: Tensor
    grad_norm: Tensor
    stopping: bool
    terms: dict[str, Tensor]


def unwatched(part: str) -> None:
    """Nobody watches the parts of a step."""


def train_step(
    run: Run,
    state: TrainState,
    batches: Iterator[SampleBatch],
    asked: Callable[[], bool] = never,
    passed: Callable[[str], None] = unwatched,
) -> StepOutput:
    """One update of `state` from the next `run.accumulation` batches.

    `asked` tells whether this process should stop, `passed` is called after each part of the step.
    Raises FloatingPointError, before the update, when a loss or gradient is not finite.
    """
    outputs, teachers, keys = [], [], []
    for micro in range(run.accumulation):
        batch = next(batches)
        outputs.append(backward(run, state, batch, micro, passed))
        teachers.append(batch.teacher)
        keys += batch.keys
    student, accelerator = state.student, run.machine.accelerator
    run.machine.share_gradients(student.beside)
    grad_norm = accelerator.clip_grad_norm_(student.parameters, run.config.optimizer.max_grad_norm)
    loss = torch.cat([output.loss for output in outputs])
    stopping = check_finite(run, state, loss, grad_norm, keys, asked)
    update(run, state)
    passed(UPDATED)
    terms = means([output.terms for output in outputs])
    if state.critics is not None:
        landed = [output.landed for output in outputs if output.landed is not None]
        terms |= teach_critics(run, state, landed, teachers)
        passed(UPDATED)
    times = torch.cat([output.times.t for output in outputs])
    return StepOutput(loss, times, grad_norm, stopping, terms)


def means(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each name over all that have it, [] without gradients."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: torch.cat([part[name].detach() for part in parts if name in part]).mean()
        for name in names
    }


def teach_critics(
    run: Run, state: TrainState, landed: list[Landed], teachers: list[int]
) -> dict[str, Tensor]:
    """The critics' updates that follow one of the student, from its landing points of every batch,
    which came from these teachers. Returns the means of their losses.

    Gradients come by the way of no prepared network, so the processes share them at the end.
    """
    critics, accelerator = state.critics, run.machine.accelerator
    assert critics is not None
    losses: list[dict[str, Tensor]] = []
    for number in range(run.objective.critic_updates):
        for points, teacher in zip(landed, teachers, strict=True):
            with run.weights.active(teacher), critics.learning():
                found = run.objective.critic_losses(points, number)
                if found:
                    accelerator.backward(torch.stack(list(found.values())).sum(0).mean())
            losses.append(found)
        learnt = [p for p in critics.parameters if p.grad is not None]
        if not learnt:
            break  # none of their terms has begun
        run.machine.share_gradients(learnt)
        accelerator.clip_grad_norm_(learnt, run.config.optimizer.max_grad_norm)
        critics.optimizer.step()
        critics.optimizer.zero_grad()
    critics.lr_scheduler.step()
    return means(losses)


def backward(
    run: Run, state: TrainState, batch: SampleBatch, micro: int, passed: Callable[[str], None]
) -> LossOutput:
    """The gradients of one batch, number `micro` of the update, are added. Returns its losses,
    without gradients.

    Gradients travel between processes with the last batch alone.
    """
    student, accelerator = state.student, run.machine.accelerator
    student.nets.dropout_seed = dropout_seed(run, state, micro)
    is_last = micro == run.accumulation - 1
    apart = nullcontext() if is_last else accelerator.no_sync(student.nets.prepared)
    with run.weights.active(batch.teacher), apart:
        latents = encode(run.families[batch.teacher], batch, run.machine.device)
        passed(ENCODED)
        progress = state.step / run.facts.num_updates
        output = run.objective(student.nets, latents, progress, state.step)
        accelerator.backward(output.loss.mean())
        passed(UPDATED)
    return output._replace(loss=output.loss.detach())


def update(run: Run, state: TrainState) -> None:
    """Moves the weights along their gradients, unless the loss scaler skips that; counts it."""
    student = state.student
    student.optimizer.step()
    student.optimizer.zero_grad()
    state.step += 1
    if student.was_skipped:
        count_skipped(state)
        return
    state.skipped = 0
    state.lr_scheduler.step()
    student.update_averages(state.step, (state.step - 1) / run.facts.num_updates)


def dropout_seed(run: Run, state: TrainState, micro: int) -> int | None:
    """The seed of the dropout masks of one batch: they depend on its place in the run, so that a
    resumed run draws them again.
    """
    if run.config.adapter.lora_dropout == 0:
        return None
    rank, size = run.machine.process
    place = (state.step * run.accumulation + micro) * size + rank
    return int(sample_rng(run.config.loop.seed, place, "dropout").integers(2**62))


def count_skipped(state: TrainState) -> None:
    """The fp16 loss scaler skips updates whose gradients overflow, a few at first. Raises
    FloatingPointError when it never ends.
    """
    state.skipped += 1
    if state.skipped >= MAX_SKIPPED:
        raise FloatingPointError(
            f"step {state.step}: the gradients overflowed in {state.skipped} updates running, none "
            "of which was made; use --mixed_precision bf16 or no"
        )


def check_finite(
    run: Run,
    state: TrainState,
    loss: Tensor,
    grad_norm: Tensor,
    keys: list[str],
    asked: Callable[[], bool],
) -> bool:
    """Whether any process was asked to stop, as all of them know it. Raises FloatingPointError, on
    all of them, when a loss or gradient of one is not finite.

    The one reduction that every step waits for tells both, at the same step.
    """
    bad = ~loss.isfinite()
    if run.machine.accelerator.scaler is None:
        # a loss scaler expects infinite gradients and skips them itself
        bad = bad | ~grad_norm.isfinite()
    stop = torch.full((), float(asked()), device=loss.device)
    any_bad, any_asked = fetched(run.machine.total(torch.stack([bad.any().float(), stop]))).tolist()
    if any_bad:
        samples = [key for key, is_bad in zip(keys, fetched(bad).tolist(), strict=True) if is_bad]
        raise not_finite(run, state, ", ".join(samples[:8]) or "on another process")
    return bool(any_asked > 0)


def not_finite(run: Run, state: TrainState, samples: str) -> FloatingPointError:
    """What to say of a loss or gradient that is not finite, and what to try, the likeliest first:
    before any update was made, weights cannot have run away.
    """
    where = f"step {state.step + 1}: the loss or its gradient is not finite"
    precision = "try --mixed_precision bf16 or no"
    if state.step == 0:
        return FloatingPointError(
            f"{where} before any update was made (samples: {samples}); {precision}, or remove "
            "these samples"
        )
    checkpoints = list_checkpoints(run.config.output.folder)
    last = checkpoints[-1] if checkpoints else "not written yet"
    config = run.config.optimizer
    critics = f" or --critic_learning_rate {config.of_critics.rate:g}" if state.critics else ""
    return FloatingPointError(
        f"{where}. After updates that were, the likely cause is --learning_rate {config.rate:g}"
        f"{critics}: lower it. Else {precision}, or remove these samples: {samples}. The update "
        f"was not made; the last checkpoint is {last}"
    )
