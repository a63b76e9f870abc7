"""Tensors on disk by key: safetensors files of many rows, every row with a checksum, files complete
or not there at all.

Several processes may write into one folder, file by file; a file's name follows from its rows, and
a file is never changed. What is on disk is what the headers of the files say, so there is no list
that could disagree with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from tqdm.auto import tqdm

from lcm.data.precomputed.former_shards import entries_of_shard, is_shard, is_sound
from lcm.data.precomputed.identity import add_tensors
from lcm.system.atomic import recover, replacing
from lcm.system.disk_space import FULL
from lcm.system.json_input import parse
from lcm.system.paths import is_regular
from lcm.system.processes import ALONE, Team
from lcm.system.transfers import fetched

ROWS = 256
"""Rows in one file: 17 MiB of Stable Diffusion's float16 moments at 512 pixels. So much is made
again after a kill.
"""

OPEN_FILES = 8
ENTRIES = "entries"
SUFFIX = ".safetensors"

Row = dict[str, Tensor]


def digest_of(row: Row) -> str:
    """32 hexadecimal digits of the SHA-256 of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    add_tensors(digest, sorted(row.items()))
    return digest.hexdigest()[:32]


def read_entries(path: Path) -> list[tuple[str, str]]:
    """(key, digest) of every row, from the header alone; empty for a file that is no part of a
    store or cut short.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if is_shard(path):
                return entries_of_shard(path, file)
            entries = parse((file.metadata() or {}).get(ENTRIES, "[]"), str(path), "")
    except (OSError, ValueError, LookupError, SafetensorError):
        return []
    return [(key, digest) for key, digest in entries] if are_entries(entries) else []


def are_entries(entries: object) -> bool:
    """Whether this is a list of pairs of texts, as `packed` writes it."""
    return isinstance(entries, list) and all(
        isinstance(entry, list) and [type(value) for value in entry] == [str, str]
        for entry in entries
    )


def as_kept(row: Row) -> Row:
    """A row off the device that made it."""
    return {name: fetched(tensor) for name, tensor in row.items()}


def packed(rows: dict[str, Row]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file with these rows, whose tensors have the same names, types and
    shapes.
    """
    names = next(iter(rows.values())).keys()
    stacked = {name: torch.stack([row[name] for row in rows.values()]) for name in names}
    return stacked, {ENTRIES: json.dumps([(key, digest_of(row)) for key, row in rows.items()])}


def write_rows(folder: Path, rows: dict[str, Row], owner: str | None = None) -> None:
    """Writes one file with these rows. What a kill leaves of it names its `owner`."""
    tensors, metadata = packed(rows)
    name = hashlib.sha256(metadata[ENTRIES].encode()).hexdigest()[:32]
    # several runs may be writing the same rows at the same time
    path = folder / f"{name}{SUFFIX}"
    try:
        with replacing(path, f".{owner or uuid.uuid4().hex}") as partial:
            save_file(tensors, partial, metadata=metadata)
    except OSError as error:
        if error.errno in FULL:  # of this disk, which need not be that of the run
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def bytes_of_rows(count: int, key: str, row: Row) -> int:
    """The bytes on disk of `count` rows like this one."""
    row, other = as_kept(row), key[:-1] + ("0" if key[-1] != "0" else "1")
    one, two = (len(save(*packed(rows))) for rows in ({key: row}, {key: row, other: row}))
    return -(-count // ROWS) * (2 * one - two) + count * (two - one)


class Writer:
    """Collects rows and writes them by `ROWS`, those of one shape together; `flush` writes the
    rest.
    """

    def __init__(self, folder: Path, owner: str | None = None) -> None:
        self.folder, self.owner = folder, owner
        self._waiting: dict[Any, dict[str, Row]] = {}

    def add(self, key: str, row: Row) -> None:
        shapes = tuple(
            (name, tensor.dtype, tuple(tensor.shape)) for name, tensor in sorted(row.items())
        )
        waiting = self._waiting.setdefault(shapes, {})
        waiting[key] = as_kept(row)
        if len(waiting) == ROWS:
            write_rows(self.folder, self._waiting.pop(shapes), self.owner)

    def flush(self) -> None:
        for rows in self._waiting.values():
            write_rows(self.folder, rows, self.owner)
        self._waiting = {}


class Store:
    """The rows in a folder by key, as they were when this was made. Opens files when asked, so that
    a worker gets names alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = sorted(
            path
            for path in folder.glob(f"*{SUFFIX}")
            if not path.name.startswith(".") and is_regular(path)
        )
        self.places: dict[str, tuple[int, int]] = {}
        self._digests: list[list[tuple[str, str]]] = [read_entries(path) for path in self.files]
        for number, entries in enumerate(self._digests):
            for row, (key, _) in enumerate(entries):
                self.places[key] = (number, row)
        self._make_opener()

    def _make_opener(self) -> None:
        self._open = lru_cache(maxsize=OPEN_FILES)(
            lambda number: safe_open(self.files[number], framework="pt")
        )

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_open", "_digests")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_opener()

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: str) -> Row:
        """Raises KeyError for a key that is not there."""
        number, row = self.places[key]
        file = self._open(number)
        return {name: file.get_slice(name)[row] for name in file.keys()}  # noqa: SIM118 - it is no dict

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.files)

    # --- damage -----------------------------------------------------------------------------------

    def damaged(self, team: Team = ALONE, quiet: bool = False) -> dict[Path, list[int]]:
        """The rows that are not what was written, by file; reads every byte of this process's
        share.

        A file whose header or size is not sound is listed without rows: nothing of it can be read.
        """
        numbers = team.share(range(len(self.files)))
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            checks = pool.map(self._bad_rows, numbers)
            found = list(
                tqdm(
                    checks,
                    total=len(numbers),
                    desc="checking what is on disk",
                    unit="file",
                    leave=False,
                    disable=quiet,
                )
            )
        return {
            self.files[number]: rows
            for number, rows in zip(numbers, found, strict=True)
            if rows is not None
        }

    def _bad_rows(self, number: int) -> list[int] | None:
        path, entries = self.files[number], self._digests[number]
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError):
            return []
        if is_shard(path):
            return None if entries and is_sound(tensors, entries) else []
        shapes = [tuple(tensor.shape[:1]) for tensor in tensors.values()]
        if not entries or any(shape != (len(entries),) for shape in shapes):
            return []
        bad = [
            row
            for row, (_, digest) in enumerate(entries)
            if digest_of({name: tensor[row] for name, tensor in tensors.items()}) != digest
        ]
        return bad or None


def drop_damaged(damaged: dict[Path, Sequence[int]]) -> None:
    """Deletes the files that `Store.damaged` found, their sound rows going into new ones first:
    only what is lost is made again.
    """
    for path, rows in damaged.items():
        if rows:
            save_sound(path, set(rows))
        path.unlink(missing_ok=True)


def save_sound(path: Path, damaged: set[int]) -> None:
    """Writes the other rows of a file into a new one, and lets go of the old one, which Windows
    would not delete.
    """
    entries = read_entries(path)
    tensors = load_file(path) if entries else {}
    kept = {
        key: {name: tensor[row] for name, tensor in tensors.items()}
        for row, (key, _) in enumerate(entries)
        if row not in damaged
    }
    if kept:
        write_rows(path.parent, kept)


def absent(store: Store, keys: Iterable[str]) -> list[str]:
    """The keys that the store lacks, each once, in order."""
    return [key for key in dict.fromkeys(keys) if key not in store]


def sweep(folder: Path, owner: str | None = None, older_than: float = 3600.0) -> None:
    """Deletes what killed writers left half done: that of `owner` at once, as it starts again; that
    of others only once it is an hour old, as it may still be being written.
    """
    if owner:
        recover(folder, [f"*.{owner}"])
    for path in folder.glob(".*.part"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > older_than:
                path.unlink()
