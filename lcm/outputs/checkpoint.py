"""Checkpoints: everything resumable as one record, in safetensors and JSON, complete or not there
at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lcm.system.atomic import discard, replacing

PREFIX = "checkpoint-"
TENSORS, FACTS = "state.safetensors", "state.json"


@dataclass
class RunState:
    """`tensors` are live: the adapter, its average, the optimizer's moments. `facts` are JSON
    values: step, configuration, data fingerprint, learning-rate schedule, loss scale.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    @property
    def nbytes(self) -> int:
        """Total bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def flatten_optimizer(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimizer's state as flat tensors and its parameter groups without parameters. A Python
    number, such as bitsandbytes counts its steps with, is an int64 tensor: torch's own optimizers
    have none.
    """
    state = optimizer.state_dict()
    named = {
        f"optimizer.{i}.{name}": value
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
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = (
                value.item() if value.dtype == torch.int64 else value
            )
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def checkpoint_path(output_dir: Path, step: int) -> Path:
    return output_dir / f"{PREFIX}{step}"


def save_checkpoint(output_dir: Path, step: int, state: RunState) -> Path:
    """Writes the folder `checkpoint-<step>` beside the old ones, complete or not at all."""
    with replacing(checkpoint_path(output_dir, step)) as partial:
        partial.mkdir(parents=True)
        save_file(apart(state.tensors), partial / TENSORS)
        (partial / FACTS).write_text(json.dumps({**state.facts, "step": step}, indent=1))
    return checkpoint_path(output_dir, step)


def apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own: safetensors refuses what shares it, such
    as the code books of 8-bit moments.
    """
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in tensors.items():
        plain = value.detach().cpu().contiguous()
        found[name] = plain.clone() if plain.untyped_storage().data_ptr() in taken else plain
        taken.add(plain.untyped_storage().data_ptr())
    return found


def load_checkpoint(folder: Path) -> RunState:
    """Raises FileNotFoundError when `folder` is no checkpoint of this toolkit."""
    if not (folder / FACTS).is_file() or not (folder / TENSORS).is_file():
        raise FileNotFoundError(
            f"resume_from_checkpoint: {folder} is not a checkpoint (it lacks {FACTS} or "
            f"{TENSORS}); pass a checkpoint-<step> folder of an earlier run, or latest"
        )
    try:
        return RunState(load_file(folder / TENSORS), json.loads((folder / FACTS).read_text()))
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"resume_from_checkpoint: {folder} is damaged ({error}); pass an earlier checkpoint"
        ) from error


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [
        path
        for path in output_dir.glob(f"{PREFIX}*")
        if path.name[len(PREFIX) :].isdigit() and (path / FACTS).is_file()
    ]
    return sorted(found, key=lambda path: int(path.name[len(PREFIX) :]))


def prune_checkpoints(output_dir: Path, keep: int | None, step: int) -> None:
    """Deletes all but the newest `keep` checkpoints up to `step`, which was just completed."""
    reached = [
        path for path in list_checkpoints(output_dir) if int(path.name[len(PREFIX) :]) <= step
    ]
    for path in reached[: -keep if keep else 0]:
        discard(path)


def find_checkpoint(output_dir: Path, wanted: str) -> Path | None:
    """The folder that `resume_from_checkpoint` means; None to start afresh."""
    if wanted == "latest":
        checkpoints = list_checkpoints(output_dir)
        return checkpoints[-1] if checkpoints else None
    return Path(wanted)
