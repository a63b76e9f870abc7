"""All that changes while a run learns: the one record that a checkpoint holds."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from lcm.outputs.checkpoint import RunState, flatten_optimizer, restore_optimizer
from lcm.training.student import Student

logger = logging.getLogger(__name__)


@dataclass
class TrainState:
    """`step` updates were made; `skipped` of the last ones in a row were not, for the fp16 loss
    scaler found their gradients infinite.
    """

    student: Student
    lr_scheduler: Any
    scaler: Any
    step: int = 0
    skipped: int = 0

    def record(self, facts: dict[str, Any]) -> RunState:
        """What a checkpoint holds, live, beside these `facts` of the run."""
        moments, groups = flatten_optimizer(self.student.optimizer)
        changing = {
            "optimizer_groups": groups,
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "skipped": self.skipped,
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }
        return RunState({**self.student.tensors(), **moments}, {**facts, **changing})

    def restore(self, saved: RunState, device: torch.device) -> None:
        """Takes everything from a checkpoint."""
        self.student.restore(saved.tensors, device)
        groups = saved.facts["optimizer_groups"]
        restore_optimizer(self.student.optimizer, saved.tensors, groups)
        self.lr_scheduler.load_state_dict(saved.facts["lr_scheduler"])
        if self.scaler is not None:
            self.scaler.load_state_dict(saved.facts["scaler"])
        self.step, self.skipped = saved.facts["step"], saved.facts["skipped"]
        logger.info("resuming after step %d", self.step)
