"""What a run makes before its first step, as its dry run foresees it: rows of the cache,
trajectories; what a cache would bring.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lcm.data.batch import collate
from lcm.data.loaded import LoadedData
from lcm.data.precomputed.latents import PictureSet, picture_rows
from lcm.data.precomputed.prompts import prompt_rows
from lcm.data.precomputed.rows import Rows, break_even, reading_seconds
from lcm.data.precomputed.store import Row, Store, Writer, bytes_of_rows
from lcm.data.precomputed.trajectories import trajectory_rows
from lcm.system.disk_space import Need
from lcm.training.inputs import build_buckets, prompts_to_encode, trajectory_folder, trajectory_spec
from lcm.training.loop import Trainer
from lcm.training.plan import duration

PROBED = 8
"""Samples that are encoded, and rows that are read, to know what a cache would bring."""


@dataclass(frozen=True)
class Preparation:
    """`missing` of `wanted` rows are still to be made, in `seconds` by all processes together."""

    what: str
    wanted: int
    missing: int
    seconds: float
    need: Need


def seconds_of(function: Callable[[], object], device: torch.device, calls: int = 4) -> float:
    """Median of so many calls, without the first where there are more."""

    def once() -> float:
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    seconds = [once() for _ in range(calls)]
    return statistics.median(seconds[1:] or seconds)


def preparations(trainer: Trainer) -> list[Preparation]:
    """What this run makes first, as far as its data are known: how much comes in a stream is not.
    Nothing is written.
    """
    config, device, found = trainer.config, trainer.accelerator.device, []
    if config.cache_folder is not None and not config.streaming:
        found += [(rows, config.cache_folder) for rows in rows_of(trainer, trainer.data)]
    if config.prompts_file is not None:
        records, spec = trainer.data.records, trajectory_spec(config)
        options: dict[str, Any] = {"batch_size": config.train_batch_size, "device": device}
        found += [
            (trajectory_rows(family, records, spec, **options), trajectory_folder(config))
            for family in trainer.families
        ]
    prepared = [preparation_of(rows, folder, trainer) for rows, folder in found]
    # teachers may have something in common
    return list({made.need.folder: made for made in prepared}.values())


def rows_of(trainer: Trainer, data: LoadedData) -> list[Rows]:
    """All that --cache_latents would read of these data."""
    config, family = trainer.config, trainer.family
    prompts = prompts_to_encode(config, data.records)
    rows = [prompt_rows(family, prompts)[0] for family in trainer.families]
    if data.pictures is None:
        return rows
    pictures = PictureSet(
        data.records, data.pictures, build_buckets(config, family, data), config, config.seed
    )
    return [*rows, picture_rows(family, pictures, workers=0)]


def preparation_of(rows: Rows, directory: Path, trainer: Trainer) -> Preparation:
    """What is missing of these rows, and what making it takes, as measured on a few of them."""
    missing, seconds, nbytes = rows.missing(directory), 0.0, 0
    if missing:
        making, row = probe(rows, missing, trainer.accelerator.device)
        seconds, nbytes = len(missing) * making, bytes_of_rows(len(missing), missing[0], row)
    need, processes = rows.need(directory, nbytes), trainer.process[1]
    return Preparation(rows.what, len(rows.requested), len(missing), seconds / processes, need)


def probe(rows: Rows, keys: Sequence[str], device: torch.device) -> tuple[float, Row]:
    """The seconds to make one row, and one."""
    jobs = [(key, rows.requested[key]) for key in keys[: rows.probes]]
    made: list[tuple[str, Row]] = []
    # portions take so long that one call must do, which the trainer has made like this before
    calls = 1 if rows.portion is not None else 4
    seconds = seconds_of(lambda: made.extend(rows.make(jobs)), device, calls)
    return seconds / len(jobs), made[0][1]


# --- what a cache would bring ---------------------------------------------------------------------


@dataclass(frozen=True)
class Gain:
    """What --cache_latents would bring: seconds that one sample takes to encode in a step, to
    encode once, and to read.
    """

    live: float
    making: float
    reading: float

    def seconds(self, samples: int, records: int) -> float:
        """Saved by a process that goes through `samples`, and makes `records` rows."""
        return samples * (self.live - self.reading) - records * self.making

    def advice(self, share: float, samples: int, records: int) -> str:
        """`share` is that of encoding in an update."""
        epochs, saved = samples / max(1, records), self.seconds(samples, records)
        first = break_even(self.making, self.making - (self.live - self.reading), 1)
        when = f"would pay from epoch {first} on" if first else "would not pay"
        line = f"encoding is {100 * share:.0f} % of an update; --cache_latents {when}"
        return (
            f"{line}, and save {duration(saved)} of this run"
            if saved > 0
            else f"{line}, and this run has {epochs:.1f}"
        )


def gain_of_cache(trainer: Trainer) -> Gain:
    """Measured on a batch that is encoded, and on a few rows that are made and read in a temporary
    folder.
    """
    device, size, dataset = (
        trainer.accelerator.device,
        trainer.config.train_batch_size,
        trainer.dataset(),
    )
    group = trainer.buckets.groups[0]
    refs = [(0, int(group[i % len(group)])) for i in range(size)]
    batch = collate([dataset[ref] for ref in refs])
    live = seconds_of(lambda: trainer.encode(batch), device)
    if trainer.config.dataloader_num_workers == 0:
        live += seconds_of(lambda: [dataset[ref] for ref in refs], device)
    making = reading = 0.0
    for rows in rows_of(trainer, trainer.data.first(PROBED)):
        seconds, row = probe(rows, list(rows.requested), device)
        making += seconds
        with tempfile.TemporaryDirectory() as folder:
            writer = Writer(Path(folder))
            writer.add("0", row)
            writer.flush()
            reading += reading_seconds(Store(Path(folder)), ["0"] * PROBED)
    return Gain(live / size, making, reading)
