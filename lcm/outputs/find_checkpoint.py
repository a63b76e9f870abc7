"""Which checkpoint a run goes on from: the newest sound one, or the one that was named."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lcm.outputs.checkpoint import (
    FACTS,
    PREFIX,
    TENSORS,
    DamagedError,
    RunState,
    load_checkpoint,
    numbered,
)
from lcm.system.json_input import kind

logger = logging.getLogger(__name__)

NEEDED: dict[str, type] = {
    **{"step": int, "config": dict, "data": str, "samples_per_step": int},
    **{"optimizer_groups": list, "lr_scheduler": dict, "skipped": int},
}
"""Facts without which a checkpoint is none, and the types of their values."""


def load_run(folder: Path) -> RunState:
    """The checkpoint of a run. Raises DamagedError for any other, and for what is damaged."""
    state = load_checkpoint(folder)
    if missing := sorted(NEEDED.keys() - state.facts.keys()):
        raise DamagedError(folder, f"{FACTS} lacks {', '.join(missing)}")
    for name, types in NEEDED.items():
        check_type(folder, name, state.facts[name], types)
    # what is no state of a schedule would be taken without a word
    check_type(folder, "last_epoch", state.facts["lr_scheduler"].get("last_epoch"), int)
    if "trained.0" not in state.tensors:
        raise DamagedError(folder, f"{TENSORS} holds no state of a run")
    return state


def check_type(folder: Path, name: str, value: Any, types: type) -> None:
    """Raises DamagedError where a fact is of another type; a bool is no number."""
    if not isinstance(value, types) or isinstance(value, bool):
        raise DamagedError(folder, f"{name} in {FACTS} is {kind(value)}")


def find_checkpoint(output_dir: Path, wanted: str) -> tuple[Path, RunState] | None:
    """The folder that `resume_from_checkpoint` means, and what it holds; None to start afresh.

    Raises ValueError, or FileNotFoundError, naming the fix, for one that is none or damaged, and
    where all are. With `latest`, damaged ones are passed over and said.
    """
    return newest(output_dir) if wanted == "latest" else named(output_dir, wanted)


def newest(output_dir: Path) -> tuple[Path, RunState] | None:
    """The newest sound checkpoint; None where there is none at all."""
    found, damaged = first_sound(reversed(numbered(output_dir)))
    reasons = "; ".join(f"{error.folder.name}: {error.reason}" for error in damaged)
    if found is not None:
        folder, state = found
        state.damaged = [error.folder for error in damaged]
        if damaged:
            logger.warning(
                "damaged in %s: %s; going on from %s, the newest sound one",
                output_dir,
                reasons,
                folder.name,
            )
        return found
    # others may have folders of this name, which are not ours to judge
    if any(is_of_a_run(error.folder) for error in damaged):
        raise ValueError(
            f"output_dir: no checkpoint in {output_dir} is sound ({reasons}); start again in "
            "another --output_dir"
        )
    return None


def is_of_a_run(folder: Path) -> bool:
    """Whether a folder was once a checkpoint of this toolkit."""
    return (folder / FACTS).exists() or (folder / TENSORS).exists()


def first_sound(
    folders: Iterable[Path],
) -> tuple[tuple[Path, RunState] | None, list[DamagedError]]:
    """The first checkpoint that can be read, and what is wrong with those before it."""
    damaged: list[DamagedError] = []
    for folder in folders:
        try:
            return (folder, load_run(folder)), damaged
        except DamagedError as error:
            damaged.append(error)
    return None, damaged


def named(output_dir: Path, wanted: str) -> tuple[Path, RunState]:
    """The checkpoint of a path, or else of a name in `output_dir`."""
    folder = Path(wanted)
    if not folder.exists() and (output_dir / wanted).exists():
        folder = output_dir / wanted
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else f"is not there, nor is it in {output_dir}"
        raise FileNotFoundError(
            f"resume_from_checkpoint: {wanted} {what}; pass a {PREFIX}<step> folder of an earlier "
            "run, by its path or by its name in output_dir, or latest"
        )
    try:
        return folder, load_run(folder)
    except DamagedError as error:
        place = os.path.realpath(folder)
        others = (path for path in numbered(folder.parent) if os.path.realpath(path) != place)
        found, _ = first_sound(reversed(list(others)))
        advice = "start again in another --output_dir, without --resume_from_checkpoint"
        if found is not None:
            advice = f"pass {found[0]}, which is sound"
        raise ValueError(
            f"resume_from_checkpoint: {folder} is no checkpoint, or damaged: {error.reason}; "
            f"{advice}"
        ) from error
