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
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from lcm.data.precomputed.store import (
    Row,
    Store,
    Writer,
    absent,
    bytes_of_rows,
    drop_damaged,
    sweep,
)
from lcm.system.atomic import replacing
from lcm.system.disk_space import Need, warn_if_short
from lcm.system.json_input import field, read_object
from lcm.system.paths import write_text
from lcm.system.processes import Team
from lcm.system.text import plain

logger = logging.getLogger(__name__)

T = TypeVar("T")
Make = Callable[[Sequence[tuple[str, T]]], Iterator[tuple[str, Row]]]
MANIFEST = "manifest.json"
MEND = "the next run that reads its rows writes it anew"
ROWS_READ = 64
"""Rows that are read to know how long reading takes."""


@dataclass(frozen=True)
class Filled:
    """A store with all that was requested, and what that took: rows found, damaged and made, by all
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
    """Rows of one `kind` that a run reads, whether they are on disk or not: `requested` has by key
    what each is made from, `make` makes them.

    They lie in the folder `name` of the directory that --`flag` chooses, whose manifest tells
    people the `facts` that they follow from. Rows are dealt out to processes one by one, or, where
    those that are made together share their work, in portions of so many neighbours, each a file.
    """

    kind: str
    what: str
    flag: str
    name: str
    facts: Mapping[str, Any]
    requested: Mapping[str, Any]
    make: Make[Any]
    portion: int | None = None
    probes: int = 8  # rows that a dry run makes to know how long one takes

    def folder(self, directory: Path) -> Path:
        """Where the rows lie, or will."""
        return directory / self.name

    def need(self, directory: Path, nbytes: int) -> Need:
        """So many bytes more, and what to do where they find no room."""
        return Need(self.folder(directory), nbytes, self.what, f"choose another --{self.flag}")

    def missing(self, directory: Path) -> list[str]:
        """Keys of the rows that are not on disk, by the headers of its files: damage is found when
        they are filled.
        """
        return absent(Store(self.folder(directory)), self.requested)

    def open(self, directory: Path) -> Path:
        """The folder, made where it is not there yet. Raises ValueError naming the flag when it
        cannot be.
        """
        folder = self.folder(directory)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"{self.flag}: {directory} cannot be written ({error}); choose another folder"
            ) from error
        if manifest_of(folder / MANIFEST)[1]:  # none yet, or one that a full disk cut short
            with replacing(folder / MANIFEST, f".{uuid.uuid4().hex}") as partial:
                write_text(partial, json.dumps({"kind": self.kind, **self.facts}, indent=1) + "\n")
        return folder

    def fill(self, directory: Path, team: Team, owner: str | None = None) -> Filled:
        """All rows that are requested, each made where it is not on disk. An interrupted build goes
        on.

        Every byte that is there is checked first, once, so that readers need not. `owner` names the
        run, the same in all its processes and after a restart, so that it can clear up what it left
        when it was killed, and nothing of other runs. Raises ValueError when the processes do not
        see the same folder.
        """
        folder = self.open(directory)
        damaged = dict(team.gather(list(Store(folder).damaged(team, team.rank != 0).items())))
        missing: list[str] = []
        # one looks for all: others may be writing, and all must share out the same list
        if team.rank == 0:
            sweep(folder, owner)
            drop_damaged(damaged)
            missing = self.missing(directory)
        missing = team.gather(missing)
        start = time.perf_counter()
        if missing:
            self._make_share(directory, missing, team, owner)
        team.wait()
        store = Store(folder)
        if lacking := absent(store, self.requested):
            raise ValueError(
                f"{self.flag}: {folder} lacks {len(lacking)} of {len(self.requested)} {self.what} "
                f"after they were made; give all machines the same --{self.flag}"
            )
        found, made = len(self.requested) - len(missing), len(missing)
        lost = min(sum(len(rows) or 1 for rows in damaged.values()), made)
        return Filled(store, found, lost, made, time.perf_counter() - start)

    def _make_share(
        self, directory: Path, missing: Sequence[str], team: Team, owner: str | None = None
    ) -> None:
        """Makes and writes what this process has to of the rows that are missing."""
        portions, writer = self.portions(missing, team), Writer(self.folder(directory), owner)
        total, is_main = sum(map(len, portions)), team.rank == 0
        by = f" by {team.size} processes" if team.size > 1 else ""
        found = len(self.requested) - len(missing)
        logger.info(
            "%s in %s: %d found, %d to make%s", self.what, writer.folder, found, len(missing), by
        )
        title = f"making {self.what}"
        with tqdm(total=total, desc=title, unit="row", disable=not is_main or not total) as bar:
            for keys in portions:
                for key, row in self.make([(key, self.requested[key]) for key in keys]):
                    if bar.n == 0 and is_main:
                        nbytes = bytes_of_rows(len(missing), key, row)
                        warn_if_short([self.need(directory, nbytes)])
                    writer.add(key, row)
                    bar.update()
                writer.flush()

    def portions(self, missing: Sequence[str], team: Team) -> list[Sequence[str]]:
        """What this process makes, in the order of the requests; what is in a portion is made in
        one go and written at its end.
        """
        if self.portion is None:
            return [team.share(missing)]
        # by their places among all rows and not among the missing ones: the batches in which they
        # are made, and with them the last bits, are those of a build without interruption
        size = self.portion
        numbers = {key: place // size for place, key in enumerate(self.requested)}
        return list(
            team.share([list(keys) for _, keys in groupby(missing, key=numbers.__getitem__)])
        )


def reading_seconds(store: Store, keys: Sequence[str]) -> float:
    """The seconds that one row takes to read, from a sample of them."""
    probes = keys[:: max(1, len(keys) // ROWS_READ)][:ROWS_READ]
    start = time.perf_counter()
    for key in probes:
        store[key]
    return (time.perf_counter() - start) / max(1, len(probes))


def break_even(making: float, reading: float, variants: int) -> int | None:
    """The first epoch at whose end a cache has saved time; None where reading takes as long as
    making.
    """
    return None if reading >= making else int(variants * making / (making - reading)) + 1


def manifest_of(path: Path) -> tuple[dict[str, Any], str]:
    """What a manifest says, and what is wrong with it where it says nothing."""
    try:
        manifest = read_object(path, MEND)
        field(manifest, "kind", str, str(path), MEND)
    except (ValueError, OSError) as error:
        return {}, plain(error)
    return manifest, ""


def stores(directory: Path) -> Iterator[tuple[dict[str, Any], Store]]:
    """The (manifest, store) of every folder with rows in a directory; the manifest is empty where
    something is wrong with it.
    """
    for path in sorted(directory.glob(f"*/{MANIFEST}")):
        yield manifest_of(path)[0], Store(path.parent)
