"""How long a picture takes, how often the U-Net is asked for it, and how much memory that needs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lcm.data.precomputed.identity import key_of
from lcm.evaluation.drawings import Drawings
from lcm.inference.generate import Planned, Settings, draw_batch, write_json
from lcm.system.device import name_of, synchronize
from lcm.system.json_input import read_object
from lcm.system.memory import counting

ROUNDS = 3
"""Timed calls, after one that warms up; their median counts."""


@dataclass(frozen=True)
class Speed:
    """Of calls of the pipeline with `batch_size` pictures: seconds and evaluations of the U-Net a
    picture, guidance counting twice; bytes at the peak, beyond the weights, None where nothing was
    counted.
    """

    seconds: float
    calls: float
    memory: int | None
    batch_size: int
    device: str


def path_of(drawings: Drawings) -> Path:
    """Where it is kept."""
    return drawings.folder / "speed.json"


def read_speed(drawings: Drawings, batch_size: int) -> Speed | None:
    """What was measured of these pictures, with batches of this size; None where nothing was."""
    path = path_of(drawings)
    try:
        kept = read_object(path, "it is measured again", 1 << 16)
        if kept.pop("key") != key_of(drawings.key, batch_size):
            return None
        return Speed(**kept)
    except (OSError, ValueError, TypeError, KeyError):
        return None


@contextmanager
def counted_rows(unet: Any) -> Iterator[list[int]]:
    """Counts what the U-Net is asked for inside the block, one entry a call."""
    rows: list[int] = []

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows.append(len(args[0] if args else kwargs["sample"]))

    handle = unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def measure_speed(pipe: Any, drawings: Drawings, settings: Settings, batch_size: int) -> Speed:
    """Draws the first pictures a few times more, and keeps what was measured beside them."""
    places = drawings.places()[:batch_size]
    batch = [
        Planned(drawings.rows[index] + 1, drawings.prompts[index], drawings.steps, seed)
        for index, seed in places
    ]
    device = pipe.unet.device
    with counted_rows(pipe.unet) as rows, counting(device) as most:
        draw_batch(pipe, batch, settings)
        memory = most()
    seconds = []
    for _ in range(ROUNDS):
        synchronize(device)
        started = time.perf_counter()
        draw_batch(pipe, batch, settings)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    speed = Speed(
        seconds=round(statistics.median(seconds) / len(batch), 6),
        calls=sum(rows) / len(batch),
        memory=memory,
        batch_size=len(batch),
        device=name_of(device),
    )
    write_json(path_of(drawings), {"key": key_of(drawings.key, batch_size), **asdict(speed)})
    return speed
