"""Checkpoints: everything resumable as one record, in safetensors and JSON, complete or not there
at all, with the sums of both files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lcm.system.atomic import discard, replacing
from lcm.system.checksums import SUMS_NAME, first_changed, sums_text
from lcm.system.paths import write_text
from lcm.system.transfers import fetched

PREFIX = "checkpoint-"
TENSORS, FACTS = "state.safetensors", "state.json"
MOST_DIGITS = 18
HAS_SUMS = "has_sums"
"""The fact that there are sums: where it stands, their file is not one that never was."""


class DamagedError(ValueError):
    """A folder that is no checkpoint, or no longer; `reason` says why, without its name."""

    def __init__(self, folder: Path, reason: str) -> None:
        self.folder, self.reason = folder, reason
        super().__init__(f"{folder} is damaged: {reason}")


@dataclass
class RunState:
    """`tensors` are live: the adapter, its average, the optimizer's moments. `facts` are JSON
    values: step, configuration, data fingerprint, learning-rate schedule, loss scale. `damaged`
    are newer checkpoints, which could not be read.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    damaged: list[Path] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Total bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def flatten_optimizer(
    optimizer: torch.optim.Optimizer, prefix: str = "optimizer"
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimizer's state as flat tensors and its parameter groups without parameters. A Python
    number, such as bitsandbytes counts its steps with, is an int64 tensor: torch's own optimizers
    have none.
    """
    state = optimizer.state_dict()
    named = {
        f"{prefix}.{i}.{name}": value
        for i, values in state["state"].items()
        for name, value in leaves(values)
    }
    tensors = {
        name: value if isinstance(value, Tensor) else torch.tensor(value)
        for name, value in named.items()
    }
    return tensors, state["param_groups"]


def leaves(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The entries of a parameter's state. bitsandbytes wraps some of them once more, and reads them
    either way.
    """
    for name, value in state.items():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield name, value


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    tensors: dict[str, Tensor],
    groups: list[dict[str, Any]],
    prefix: str = "optimizer",
) -> None:
    """The state that `flatten_optimizer` has given, back in an optimizer."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith(f"{prefix}."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = (
                value.item() if value.dtype == torch.int64 else value.clone()
            )
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def checkpoint_path(output_dir: Path, step: int) -> Path:
    return output_dir / f"{PREFIX}{step}"


def save_checkpoint(output_dir: Path, step: int, state: RunState) -> Path:
    """Writes the folder `checkpoint-<step>` beside the old ones, complete or not at all."""
    facts = {**state.facts, "step": step, HAS_SUMS: True}
    with replacing(checkpoint_path(output_dir, step)) as partial:
        partial.mkdir(parents=True)
        save_file(apart(state.tensors), partial / TENSORS)
        write_text(partial / FACTS, json.dumps(facts, indent=1))
        sums = sums_text(partial, [partial / TENSORS, partial / FACTS])
        write_text(partial / SUMS_NAME, sums)
    return checkpoint_path(output_dir, step)


def apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own: safetensors refuses what shares it, such
    as the code books of 8-bit moments.
    """
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in tensors.items():
        plain = fetched(value).contiguous()
        found[name] = plain.clone() if plain.untyped_storage().data_ptr() in taken else plain
        taken.add(plain.untyped_storage().data_ptr())
    return found


def load_checkpoint(folder: Path) -> RunState:
    """Raises DamagedError when `folder` is no checkpoint of this toolkit, or not as it was written.

    Former versions wrote no sums: of theirs, files are noticed that cannot be read.
    """
    for name in (FACTS, TENSORS):
        if not (folder / name).is_file():
            raise DamagedError(folder, f"{name} is missing")
    if (changed := first_changed(folder, (TENSORS, FACTS))) is not None:
        raise DamagedError(folder, changed)
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise DamagedError(folder, f"{FACTS} is no JSON ({error})") from error
    if not isinstance(facts, dict):
        raise DamagedError(folder, f"{FACTS} is no JSON object")
    if facts.pop(HAS_SUMS, False) and not (folder / SUMS_NAME).is_file():
        raise DamagedError(folder, f"{SUMS_NAME} is missing")
    number = number_of(folder)
    if number is not None and facts.get("step") != number:
        raise DamagedError(folder, f"{FACTS} is of step {facts.get('step')!r}")
    try:
        return RunState(load_file(folder / TENSORS), facts)
    except (SafetensorError, ValueError, OSError) as error:
        raise DamagedError(folder, f"{TENSORS} is cut short or overwritten ({error})") from error


def number_of(folder: Path) -> int | None:
    """The step in a checkpoint's name; None where that is another name, or no number of updates."""
    digits = folder.name.removeprefix(PREFIX)
    is_number = folder.name.startswith(PREFIX) and digits.isascii() and digits.isdecimal()
    is_number = is_number and len(digits) <= MOST_DIGITS
    return int(digits) if is_number else None


def numbered(output_dir: Path) -> list[Path]:
    """Whatever has the name of a checkpoint, damaged or not, oldest first."""
    found = {path: number_of(path) for path in output_dir.glob(f"{PREFIX}*")}
    numbers = {path: number for path, number in found.items() if number is not None}
    return sorted(numbers, key=numbers.__getitem__)


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return [
        path
        for path in numbered(output_dir)
        if (path / FACTS).is_file() and (path / TENSORS).is_file()
    ]


def set_aside(folder: Path) -> Path:
    """Renames a damaged checkpoint, so that it neither counts nor is written over; its new
    place.
    """
    places = (
        folder.with_name(f"{folder.name}.damaged{f'-{i}' if i else ''}") for i in range(2**20)
    )
    place = next(place for place in places if not place.exists() and not place.is_symlink())
    return folder.rename(place)


def prune_checkpoints(output_dir: Path, keep: int | None, step: int) -> None:
    """Deletes all but the newest `keep` checkpoints up to `step`, which was just completed."""
    reached = [path for path in list_checkpoints(output_dir) if (number_of(path) or 0) <= step]
    for path in reached[: -keep if keep else 0]:
        discard(path)
