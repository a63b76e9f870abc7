"""Filling a store: what is there is kept, what is damaged or missing is made, every process its
share.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from lcm.data.precomputed.store import Row, Store, Writer, absent, bytes_of_rows, discard, sweep
from lcm.system.atomic import replacing
from lcm.system.disk_space import Need, warn_if_short
from lcm.system.processes import Team

logger = logging.getLogger(__name__)

T = TypeVar("T")
Make = Callable[[Sequence[tuple[str, T]]], Iterator[tuple[str, Row]]]
MANIFEST = "manifest.json"
CHOOSE_FOLDER = "choose another --latent_cache_dir"
PROBES = 64
"""Rows that are read to know how long reading takes."""


@dataclass(frozen=True)
class Filled:
    """A store with all that was wanted, and what that took: rows found, damaged and made, by all
    processes together.
    """

    store: Store
    found: int
    damaged: int
    made: int
    seconds: float

    def summary(self, what: str) -> str:
        damaged = f", {self.damaged} damaged ones among them" if self.damaged else ""
        took = f" in {self.seconds:.1f} s" if self.made else ""
        return (
            f"{what} in {self.store.folder}: {self.found} reused, {self.made} made{damaged}{took}; "
            f"{self.store.size() / 2**20:.1f} MiB on disk"
        )


@dataclass(frozen=True)
class Rows:
    """Rows of one `kind` that a run reads, whether they are there or not: by key what each is made
    from, and how. They follow from `facts`.
    """

    kind: str
    what: str
    facts: dict[str, Any]
    wanted: Mapping[str, Any]
    make: Make[Any]

    def folder(self, directory: Path) -> Path:
        return folder_of(directory, self.kind, self.facts)

    def missing(self, directory: Path) -> list[str]:
        """Keys that a cache lacks, by the headers of its files: damage is found when it is
        filled.
        """
        return absent(Store(self.folder(directory)), self.wanted)

    def fill(self, directory: Path, team: Team) -> Filled:
        return fill(
            open_folder(directory, self.kind, self.facts), self.wanted, self.make, team, self.what
        )


def folder_of(directory: Path, kind: str, facts: dict[str, Any]) -> Path:
    """The place of rows that follow from `facts`, there or not."""
    return directory / f"{kind}-{facts['model']}"


def open_folder(directory: Path, kind: str, facts: dict[str, Any]) -> Path:
    """The folder for rows that follow from `facts`; its manifest tells people what they are."""
    folder = folder_of(directory, kind, facts)
    manifest = json.dumps({"kind": kind, **facts}, indent=1) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST).exists():
        with replacing(folder / MANIFEST, f".{uuid.uuid4().hex}") as partial:
            partial.write_text(manifest)
    return folder


def fill(folder: Path, wanted: Mapping[str, T], make: Make[T], team: Team, what: str) -> Filled:
    """All `wanted` rows, each made from what its key maps to where the folder lacks it. An
    interrupted build goes on.

    Every byte that is there is checked first, once, so that readers need not. Raises ValueError
    when the processes do not see the same folder.
    """
    store = Store(folder)
    damaged = dict(team.gather(list(store.damaged(team, quiet=team.rank != 0).items())))
    missing: list[str] = []
    if (
        team.rank == 0
    ):  # one looks for all: others may be writing, and all must share out the same list
        sweep(folder)
        discard(damaged)
        missing = absent(Store(folder), wanted)
    missing = team.gather(missing)
    share = team.share(missing)
    start, writer = time.perf_counter(), Writer(folder)
    with tqdm(
        total=len(share), desc=f"making {what}", unit="row", disable=team.rank != 0 or not share
    ) as bar:
        for number, (key, row) in enumerate(make([(key, wanted[key]) for key in share])):
            if number == 0 and team.rank == 0:
                warn_if_short(
                    [Need(folder, bytes_of_rows(len(missing), key, row), what, CHOOSE_FOLDER)]
                )
            writer.add(key, row)
            bar.update()
    writer.flush()
    team.wait()
    store = Store(folder)
    if lacking := absent(store, wanted):
        raise ValueError(
            f"latent_cache_dir: {folder} lacks {len(lacking)} of {len(wanted)} {what} after they "
            "were made; give all machines the same --latent_cache_dir"
        )
    seconds = time.perf_counter() - start
    lost = sum(len(rows) or 1 for rows in damaged.values())
    return Filled(store, len(wanted) - len(missing), min(lost, len(missing)), len(missing), seconds)


def reading_seconds(store: Store, keys: Sequence[str]) -> float:
    """Seconds that one row takes to read, from a sample of them."""
    probes = keys[:: max(1, len(keys) // PROBES)][:PROBES]
    start = time.perf_counter()
    for key in probes:
        store[key]
    return (time.perf_counter() - start) / max(1, len(probes))


def break_even(making: float, reading: float, variants: int) -> int | None:
    """The first epoch at whose end a cache has saved time; None where reading takes as long as
    making.
    """
    return None if reading >= making else int(variants * making / (making - reading)) + 1


def stores(directory: Path) -> Iterator[tuple[dict[str, Any], Store]]:
    """(manifest, store) of every folder in a cache."""
    for path in sorted(directory.glob(f"*/{MANIFEST}")):
        yield json.loads(path.read_text()), Store(path.parent)
