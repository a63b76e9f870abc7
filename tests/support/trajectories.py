"""Trajectories of the tiny teacher, a few or many."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from lcm.data.precomputed.store import Store
from lcm.data.precomputed.trajectories import Trajectories, TrajectorySpec, make_trajectories
from lcm.data.records import Record
from lcm.models.families import Family

SPEC = TrajectorySpec(
    num_steps=5, solver="ddim", solver_steps=1, guidance_range=(3.0, 3.0), seed=7, resolution=16
)


SHAPE = (6, 4, 8, 8)
QUICK = dataclasses.replace(SPEC, num_steps=1)


def records_of(count: int) -> list[Record]:
    return [Record(f"{i + 1:06d}#0", (f"a red star, picture {i}",)) for i in range(count)]


def spec(**changes: Any) -> TrajectorySpec:
    return dataclasses.replace(SPEC, **changes)


def cached(
    family: Family,
    records: list[Record],
    folder: Path,
    wanted: TrajectorySpec = SPEC,
    **options: Any,
) -> Trajectories:
    return make_trajectories(family, records, wanted, directory=folder, device="cpu", **options)


def prepare(*args: Any, **options: Any) -> list[Tensor]:
    """All of `cached`, read now."""
    return list(cached(*args, **options))


def as_stored(trajectory: Tensor) -> dict[str, Any]:
    """Tolerances of float16."""
    return {"rtol": 1e-3, "atol": 1e-3 * float(trajectory.abs().max())}


def count_rows(family: Family, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    rows: list[int] = []
    forward = family.unet.forward

    def spy(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(x))
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(family.unet, "forward", spy)
    return rows


def made(folder: Path) -> list[Path]:
    """The files with trajectories in the order of these."""
    files = [
        (store, number)
        for store in map(Store, folder.rglob(""))
        for number in range(len(store.files))
    ]
    firsts = {}
    for store, number in files:
        firsts[store.files[number]] = min(
            int(key) for key, place in store.places.items() if place[0] == number
        )
    return sorted(firsts, key=lambda path: (path.parent, firsts[path]))


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "deleted":
        path.unlink()
        return
    if kind == "flipped":
        content[-1001] ^= 1
    elif kind == "flipped digest":
        place = next(re.finditer(rb"[0-9a-f]{32,}", content)).start()
        content[place] = ord("0") if content[place] != ord("0") else ord("1")
    elif kind == "half":
        content = content[: len(content) // 2]
    elif kind == "short by a byte":
        content = content[:-1]
    elif kind == "empty":
        content = bytearray()
    else:
        content = bytearray(b"\xff" * len(content))
    path.write_bytes(content)


DAMAGES = [
    "deleted",
    "flipped",
    "flipped digest",
    "half",
    "short by a byte",
    "empty",
    "overwritten",
]
