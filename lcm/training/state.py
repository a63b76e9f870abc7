"""All that changes while a run learns: the one record that a checkpoint holds."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lcm.outputs.checkpoint import RunState, flatten_optimizer, restore_optimizer
from lcm.system.memory import is_out_of_memory
from lcm.training.critics import Critics
from lcm.training.student import Student

logger = logging.getLogger(__name__)

CRITICS_OPTIMIZER = "critics_optimizer"
"""What the moments of the critics begin with in a checkpoint."""


class Unscheduled:
    """A learning rate that nobody moves."""

    def step(self) -> None:
        """Leaves it as it is."""


@dataclass
class TrainState:
    """`step` updates were made; `skipped` of the last ones in a row were not, for the fp16 loss
    scaler found their gradients infinite. `damaged` are newer checkpoints that were passed over.
    """

    student: Student
    lr_scheduler: Any
    scaler: Any
    critics: Critics | None = None
    step: int = 0
    skipped: int = 0
    damaged: list[Path] = field(default_factory=list)

    @contextmanager
    def learning_at(self, rate: float) -> Iterator[None]:
        """Updates inside the block are made at this learning rate; the caller sees to it that no
        schedule moves it.
        """
        critics = [self.critics.optimizer] if self.critics is not None else []
        optimizers = [self.student.optimizer, *critics]
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = rate
        try:
            yield
        finally:
            for group, former in zip(groups, rates, strict=True):
                group["lr"] = former

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Updates inside the block move no weight and no average."""
        with self.student.averages_standing_still(), self.learning_at(0.0):
            yield

    def unscheduled(self) -> TrainState:
        """The same state, whose learning rates nobody moves."""
        critics = self.critics
        if critics is not None:
            critics = dataclasses.replace(critics, lr_scheduler=Unscheduled())
        return dataclasses.replace(self, lr_scheduler=Unscheduled(), critics=critics)

    def record(self, facts: dict[str, Any]) -> RunState:
        """What a checkpoint holds, live, beside these `facts` of the run."""
        moments, groups = flatten_optimizer(self.student.optimizer)
        changing = {
            "optimizer_groups": groups,
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "skipped": self.skipped,
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }
        tensors = {**self.student.tensors(), **moments}
        if self.critics is not None:
            theirs, groups = flatten_optimizer(self.critics.optimizer, CRITICS_OPTIMIZER)
            tensors |= {**self.critics.tensors(), **theirs}
            changing |= {
                "critics_groups": groups,
                "critics_lr_scheduler": self.critics.lr_scheduler.state_dict(),
            }
        return RunState(tensors, {**facts, **changing})

    def restore(self, saved: RunState, device: torch.device) -> None:
        """Takes everything from a checkpoint. Raises ValueError for one that does not fit."""
        try:
            self._take(saved, device)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"resume_from_checkpoint: that of step {saved.facts['step']} does not fit this run "
                f"({type(error).__name__}: {error}); pass an earlier one, or start again in "
                "another --output_dir"
            ) from error
        logger.info("resuming after step %d", self.step)

    def _take(self, saved: RunState, device: torch.device) -> None:
        self.student.restore(saved.tensors, device)
        groups = saved.facts["optimizer_groups"]
        restore_optimizer(self.student.optimizer, saved.tensors, groups)
        self.lr_scheduler.load_state_dict(saved.facts["lr_scheduler"])
        if self.critics is not None:
            self.critics.restore(saved.tensors)
            groups = saved.facts["critics_groups"]
            restore_optimizer(self.critics.optimizer, saved.tensors, groups, CRITICS_OPTIMIZER)
            self.critics.lr_scheduler.load_state_dict(saved.facts["critics_lr_scheduler"])
        if self.scaler is not None:
            self.scaler.load_state_dict(saved.facts["scaler"])
        self.step, self.skipped = saved.facts["step"], saved.facts["skipped"]
        self.damaged = saved.damaged
