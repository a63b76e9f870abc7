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

import torch

from lcm.data.batch import collate
from lcm.data.loaded import LoadedData
from lcm.data.precomputed.latents import picture_rows
from lcm.data.precomputed.prompts import prompt_rows
from lcm.data.precomputed.rows import Rows, break_even, reading_seconds
from lcm.data.precomputed.store import Row, Store, Writer, bytes_of_rows
from lcm.data.precomputed.trajectories import trajectory_rows
from lcm.methods.build import reads_pictures
from lcm.models.families import Family
from lcm.system.device import synchronize
from lcm.system.disk_space import Need
from lcm.training.encode import encode
from lcm.training.inputs import picture_set, prompts_to_encode, trajectory_spec
from lcm.training.plan import duration
from lcm.training.run import Run
from lcm.training.workspace import trajectory_folder

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
        synchronize(device)
        return time.perf_counter() - start

    seconds = [once() for _ in range(calls)]
    return statistics.median(seconds[1:] or seconds)


def preparations(run: Run) -> list[Preparation]:
    """What this run makes first, as far as its data are known: how much comes in a stream is not.
    Nothing is written.
    """
    config, found = run.config, []
    if config.cache.folder is not None and not config.data.streaming:
        found += [(rows, config.cache.folder) for rows in rows_of(run, run.loaded)]
    if config.data.prompts_file is not None and reads_pictures(config.method):
        folder = trajectory_folder(config.cache, config.output.folder)
        found += [(trajectories_of(run, family), folder) for family in run.families]
    prepared = [preparation_of(rows, folder, run) for rows, folder in found]
    # teachers may have something in common
    return list({made.need.folder: made for made in prepared}.values())


def trajectories_of(run: Run, family: Family) -> Rows:
    """All trajectories of a teacher that --prompts_file would read."""
    return trajectory_rows(
        family,
        run.loaded.records,
        trajectory_spec(run.config.method, run.config.loop.seed, run.facts.resolution),
        batch_size=run.config.loop.train_batch_size,
        device=run.machine.device,
    )


def rows_of(run: Run, data: LoadedData) -> list[Rows]:
    """All rows that --cache_latents would read of these data."""
    prompts = prompts_to_encode(run.config.samples, data.records)
    rows = [prompt_rows(family, prompts)[0] for family in run.families]
    if data.pictures is None:
        return rows
    return [*rows, picture_rows(run.family, picture_set(run.config, run.family, data), workers=0)]


def preparation_of(rows: Rows, directory: Path, run: Run) -> Preparation:
    """What is missing of these rows, and what making it takes, as measured on a few of them."""
    missing, seconds, nbytes = rows.missing(directory), 0.0, 0
    if missing:
        making, row = probe(rows, missing, run.machine.device)
        seconds, nbytes = len(missing) * making, bytes_of_rows(len(missing), missing[0], row)
    need, processes = rows.need(directory, nbytes), run.machine.process[1]
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


def gain_of_cache(run: Run) -> Gain:
    """What a cache would bring, measured on a batch that is encoded, and on a few rows that are
    made and read in a temporary folder.
    """
    device, loop, dataset = run.machine.device, run.config.loop, run.inputs.dataset()
    group = run.inputs.buckets.groups[0]
    refs = [(0, int(group[i % len(group)])) for i in range(loop.train_batch_size)]
    batch = collate([dataset[ref] for ref in refs])
    live = seconds_of(lambda: encode(run.families[batch.teacher], batch, device), device)
    if loop.dataloader_num_workers == 0:
        live += seconds_of(lambda: [dataset[ref] for ref in refs], device)
    making = reading = 0.0
    for rows in rows_of(run, run.loaded.first(PROBED)):
        seconds, row = probe(rows, list(rows.requested), device)
        making += seconds
        with tempfile.TemporaryDirectory() as folder:
            writer = Writer(Path(folder))
            writer.add("0", row)
            writer.flush()
            reading += reading_seconds(Store(Path(folder)), ["0"] * PROBED)
    return Gain(live / len(refs), making, reading)
