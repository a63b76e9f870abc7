"""The checkpoints of a run, each with an adapter that already loads, on a disk that may be full."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lcm.outputs.checkpoint import RunState, checkpoint_path, prune_checkpoints, save_checkpoint
from lcm.outputs.finished import flaw_of_weights
from lcm.system.disk_space import FULL, check_room, free_bytes, optional, readable

logger = logging.getLogger(__name__)

BESIDES = 2**20
"""Bytes for all that is small: facts, headers, the folder itself."""
RETRY_SECONDS = 60


def bytes_of_trained(state: RunState) -> int:
    """Total bytes of the trained tensors, which the exported ones do not exceed."""
    return sum(
        tensor.nbytes for name, tensor in state.tensors.items() if name.startswith("trained.")
    )


def bytes_of_checkpoint(state: RunState) -> int:
    """The most that a checkpoint takes: the state, and what was trained once more as it is given
    away.
    """
    return state.nbytes + bytes_of_trained(state) + BESIDES


@dataclass(frozen=True)
class Saver:
    """Writes into `output_dir` and keeps the newest `keep` checkpoints, all where it is None.
    `export` writes the adapter of a step into a folder.
    """

    output_dir: Path
    keep: int | None
    export: Callable[[Path], None]

    def save(self, step: int, state: RunState) -> bool:
        """Returns whether there was room. A full disk costs this checkpoint and no other: a run
        that nobody watches must not end with the weights that are newer than its last checkpoint.
        """
        needed = bytes_of_checkpoint(state)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        try:
            check_room(self.output_dir, needed)
            save_checkpoint(self.output_dir, step, state)
        except OSError as error:
            if error.errno not in FULL:
                raise
            logger.warning(
                "checkpoint-%d was NOT SAVED, the disk of %s is full: it needs %s, free are %s; "
                "earlier checkpoints are kept, the run goes on and saves when there is room",
                step,
                self.output_dir,
                readable(needed),
                readable(free_bytes(self.output_dir)),
            )
            return False
        # the adapter comes after the state is safe: should it fail its check, nothing of the run is
        # lost
        self.complete(step)
        return True

    def insist(self, step: int, state: RunState, asked: Callable[[], bool]) -> None:
        """Saves as `save` does, where no later checkpoint is to come: tries again until there is
        room, or the run is asked to stop.
        """
        while not self.save(step, state):
            for _ in range(RETRY_SECONDS):
                if asked():
                    return
                time.sleep(1)

    def complete(self, step: int) -> None:
        """What follows a checkpoint, and may have been cut off by a kill: its adapter, and the end
        of those that are too old.
        """
        folder = checkpoint_path(self.output_dir, step)
        if folder.is_dir() and flaw_of_weights(folder) is not None:
            with optional(f"the adapter in {folder}"):
                self.export(folder)
        prune_checkpoints(self.output_dir, self.keep, step)
