"""Verbs of the lcm command, and the weights in what they write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from lcm.cli import main as cli
from lcm.formats.read import read_adapter


def run(*arguments: Any) -> int:
    return cli.main([str(argument) for argument in arguments])


def deltas(path: Path) -> dict[str, Tensor]:
    return {name: factors.delta() for name, factors in read_adapter(path).checked().modules.items()}


def equal(here: dict[str, Tensor], there: dict[str, Tensor], tolerance: float = 0.0) -> bool:
    assert here.keys() == there.keys()
    return all((here[name] - there[name]).norm() <= tolerance * here[name].norm() for name in here)
