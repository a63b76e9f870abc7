"""All that changes while a run learns: the one record that a checkpoint holds."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lcm.outputs.checkpoint import RunState, flatten_optimizer, restore_optimizer
from lcm.system.memory import is_out_of_memory
from lcm.training.student import Student

logger = logging.getLogger(__name__)


@dataclass
class TrainState:
    """`step` updates were made; `skipped` of the last ones in a row were not, for the fp16 loss
    scaler found their gradients infinite. `damaged` are newer checkpoints that were passed over.
    """

    student: Student
    lr_scheduler: Any
    scaler: Any
    step: int = 0
    skipped: int = 0
    damaged: list[Path] = field(default_factory=list)

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
        if self.scaler is not None:
            self.scaler.load_state_dict(saved.facts["scaler"])
        self.step, self.skipped = saved.facts["step"], saved.facts["skipped"]
        self.damaged = saved.damaged
