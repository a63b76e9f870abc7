"""How long a picture takes, how often the U-Net is asked for it, and how much memory that needs:
taken while the pictures are drawn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from lcm.data.precomputed.identity import key_of
from lcm.evaluation.drawings import Drawings
from lcm.inference.generate import write_json
from lcm.system.device import name_of, synchronize
from lcm.system.json_input import read_object
from lcm.system.memory import counting

T = TypeVar("T")


@dataclass(frozen=True)
class Speed:
    """Of calls of the pipeline with `batch_size` pictures: seconds and evaluations of the U-Net a
    picture, guidance counting twice; bytes at the peak, beyond the weights.
    """

    seconds: float
    calls: float
    memory: int
    batch_size: int
    device: str


@dataclass
class Meter:
    """Measures calls of a pipeline with `batch_size` pictures, and no others. In the first the
    memory is counted, which takes time on a CPU, and kernels are chosen; of the others the median
    counts.
    """

    unet: Any
    batch_size: int
    memory: int = 0
    rows: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """Where the pictures are drawn."""
        device: torch.device = self.unet.device
        return device

    def measure(self, call: Callable[[], T], pictures: int) -> T:
        """What `call` returns, which draws so many pictures."""
        if pictures != self.batch_size:
            return call()
        if not self.rows:
            with counted_rows(self.unet) as rows, counting(self.device) as most:
                result = call()
                self.memory = most()
            self.rows = sum(rows)
            return result
        synchronize(self.device)
        started = time.perf_counter()
        result = call()
        synchronize(self.device)
        self.seconds.append(time.perf_counter() - started)
        return result

    @property
    def speed(self) -> Speed:
        """What was measured, in two calls at least."""
        return Speed(
            seconds=round(statistics.median(self.seconds) / self.batch_size, 6),
            calls=self.rows / self.batch_size,
            memory=self.memory,
            batch_size=self.batch_size,
            device=name_of(self.device),
        )


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


# --- kept beside the pictures ---------------------------------------------------------------------


def path_of(drawings: Drawings) -> Path:
    """Where it is kept."""
    return drawings.folder / "speed.json"


def read_speed(drawings: Drawings, batch_size: int) -> Speed | None:
    """What was measured of these pictures in calls of this size; None where nothing was."""
    try:
        kept = read_object(path_of(drawings), "it is measured again", 1 << 16)
        if kept.pop("key") != key_of(drawings.key, batch_size):
            return None
        found = Speed(**kept)
        return found if found.batch_size == batch_size else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_speed(drawings: Drawings, speed: Speed) -> None:
    """Keeps it."""
    write_json(path_of(drawings), {"key": key_of(drawings.key, speed.batch_size), **asdict(speed)})
