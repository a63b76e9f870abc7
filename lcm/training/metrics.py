"""The numbers of a line in metrics.jsonl that are of one moment: a function each, and a line in the
table.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from lcm.system.registry import Table
from lcm.system.transfers import fetched
from lcm.training.run import Run
from lcm.training.state import TrainState
from lcm.training.step import StepOutput

Metric = Callable[[Run, TrainState, StepOutput], float | None]
"""(run, state after the update, output of the update) -> a number, None where there is none.

Every process asks for it at the same step; the main one's counts.
"""


def epoch(run: Run, state: TrainState, output: StepOutput) -> float:
    """Passes over the data so far."""
    return round(state.step * run.facts.samples_per_step / len(run.loaded.records), 4)


def grad_norm(run: Run, state: TrainState, output: StepOutput) -> float | None:
    """L2 norm of the gradients before clipping; None where the loss scaler skipped the update."""
    norm = fetched(output.grad_norm).item()
    return norm if math.isfinite(norm) else None


def delta_norm(run: Run, state: TrainState, output: StepOutput) -> float:
    """L2 distance of the trained weights from the teacher's."""
    return fetched(state.student.delta_norm()).item()


def lr(run: Run, state: TrainState, output: StepOutput) -> float:
    """The learning rate of the next update."""
    rate: float = state.lr_scheduler.get_last_lr()[0]
    return rate


METRICS: Table[Metric] = Table(
    "metric",
    {
        "epoch": "lcm.training.metrics:epoch",
        "grad_norm": "lcm.training.metrics:grad_norm",
        "delta_norm": "lcm.training.metrics:delta_norm",
        "lr": "lcm.training.metrics:lr",
    },
)
"""Columns of metrics.jsonl beside the means over the steps since the last line."""


def measure(run: Run, state: TrainState, output: StepOutput) -> dict[str, float | None]:
    """Every metric after an update."""
    values = {name: metric(run, state, output) for name, metric in METRICS.items()}
    return values | of_terms(run, output)


def of_terms(run: Run, output: StepOutput) -> dict[str, float]:
    """The mean of every term before its weight, and of every critic's loss, over all samples of the
    update.
    """
    if not output.terms:
        return {}
    total = run.machine.total(torch.stack(list(output.terms.values())))
    shared = fetched(total / run.machine.team.size).tolist()
    return {f"loss_{name}": value for name, value in zip(output.terms, shared, strict=True)}
