"""The processes of an evaluation: one, or those that `accelerate launch` started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from lcm.inference.devices import choose_device
from lcm.system.lock import alone_in
from lcm.system.processes import ALONE, Team


@contextmanager
def launched(device: str) -> Iterator[tuple[Team, Any]]:
    """The team of this process, and its device: that of --device where it is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, choose_device(device)
        return
    state = PartialState(cpu=device == "cpu")
    team = Team(state.process_index, state.num_processes, gather_object, state.wait_for_everyone)
    try:
        yield team, state.device
    finally:
        state.destroy_process_group()


@contextmanager
def locked(output: Path, team: Team) -> Iterator[None]:
    """Inside the block the output folder is this command's alone."""
    with ExitStack() as stack:
        team.together(
            lambda: stack.enter_context(alone_in(output, "output")) if team.rank == 0 else None
        )
        team.check_shared(output, "output")
        yield
