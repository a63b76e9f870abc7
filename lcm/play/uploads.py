"""Adapter files that somebody drops on the page, or picks from the folders that were named at the
start: looked at, mended where that can be done, and only then attached.

A name that comes from a browser never becomes a path: dropped files get names of ours in a folder
of ours, others are found by the names that were listed.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcm.adapter.files import AdapterError, AdapterFile
from lcm.adapter.locate import Located
from lcm.adapter.names import PICKLED, SUFFIX
from lcm.formats.advice import Mend, no_check, tried
from lcm.inference.judge import fits, sound
from lcm.play.stage import Loaded, Stage
from lcm.play.studio import Studio
from lcm.publish.inspection import inspect, lines
from lcm.system.disk_space import free_bytes
from lcm.system.paths import is_regular, is_within
from lcm.system.text import plain

KEPT = 8
"""Files that were dropped and not attached; an older one is deleted."""
LISTED = 500
SPARE = 1 << 28
"""Bytes of the disk that stay free."""
LONGEST_LINE = 500
GIB = 1 << 30


class TooLargeError(ValueError):
    """An upload is larger than it may be."""


@dataclass(frozen=True, eq=False)
class Dropped:
    """A file by its `name`, as the page shows it; `is_ours`: it may be deleted."""

    key: str
    name: str
    path: Path
    is_ours: bool
    mend: Mend | None = None


def check_name(name: str) -> str:
    """The name of an adapter file, without what no name needs. Raises AdapterError for a pickle,
    and for what is no safetensors file by its name.
    """
    shown = plain(name.replace("\\", "/").rpartition("/")[2], 100)
    if shown.lower().endswith(PICKLED):
        raise AdapterError(
            f"{shown} is a pickle, which can run any code when it is read, so it was not opened; "
            f"use its {SUFFIX} version: `lcm inspect` of the file says how one is made of it"
        )
    if not shown.lower().endswith(SUFFIX):
        raise AdapterError(f"{shown} is no {SUFFIX} file; drop an adapter, or save it as one")
    return shown


class Uploads:
    """`folder` is a folder of ours, `folders` are those whose adapters may be picked, `largest` is
    how many bytes a file may have.
    """

    def __init__(self, folder: Path, folders: Sequence[Path] = (), largest: int = GIB) -> None:
        self.folder, self.folders, self.largest = folder, list(folders), largest
        self._files: OrderedDict[str, Dropped] = OrderedDict()
        self._lock = threading.Lock()

    # --- where files come from --------------------------------------------------------------------

    def listed(self) -> dict[str, Path]:
        """The adapters of the folders named at the start, by the names that the page knows: what
        lies in them once all links are followed.
        """
        found: dict[str, Path] = {}
        for number, folder in enumerate(self.folders, start=1):
            for path in sorted(folder.rglob(f"*{SUFFIX}")):
                if len(found) >= LISTED:
                    return found
                if is_regular(path) and is_within(path, folder):
                    found[f"{number}: {path.relative_to(folder).as_posix()}"] = path
        return found

    def pick(self, name: str) -> Dropped:
        """One of the `listed`. Raises FileNotFoundError for any other name."""
        path = self.listed().get(name)
        if path is None:
            raise FileNotFoundError(
                f"there is no {plain(name, 100)} in the folders named at the start; reload the page"
            )
        return self._keep(Dropped(secrets.token_urlsafe(16), path.name, path, is_ours=False))

    async def receive(self, name: str, parts: AsyncIterator[bytes]) -> Dropped:
        """A file that is dropped. Raises TooLargeError, AdapterError for what is no safetensors
        file by its name, and OSError where the disk has no room.
        """
        shown, size = check_name(name), 0
        key = secrets.token_urlsafe(16)
        path = self._place(key, shown)
        try:
            with path.open("wb") as file:
                async for part in parts:
                    size += len(part)
                    if size > self.largest:
                        raise TooLargeError(
                            f"{shown} has more than {self.largest >> 20} MiB; raise --max_upload"
                        )
                    if size % (1 << 24) < len(part) and free_bytes(self.folder) < SPARE:
                        raise OSError(f"the disk of {self.folder} is full; make room")
                    file.write(part)
        except BaseException:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise
        return self._keep(Dropped(key, shown, path, is_ours=True))

    def _place(self, key: str, name: str) -> Path:
        """Where to write a file: in a folder of its own, under a name of letters and digits."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name[: -len(SUFFIX)]).strip("_") or "adapter"
        path = self.folder / key / f"{stem}{SUFFIX}"
        path.parent.mkdir()
        return path

    def _keep(self, dropped: Dropped) -> Dropped:
        with self._lock:
            self._files[dropped.key] = dropped
            gone = [self._files.popitem(last=False)[1] for _ in range(len(self._files) - KEPT)]
        for old in gone:
            if old.is_ours:  # one that is attached has been read
                shutil.rmtree(old.path.parent, ignore_errors=True)
        return dropped

    def __getitem__(self, key: str) -> Dropped:
        """Raises FileNotFoundError for a file that is no longer kept."""
        with self._lock:
            found = self._files.get(key)
        if found is None:
            raise FileNotFoundError("this file is no longer here; drop it again")
        return found

    # --- what is done with them -------------------------------------------------------------------

    def look(self, dropped: Dropped, stage: Stage | None) -> dict[str, Any]:
        """What a file is, as JSON has it: `lines` for people, whether it `fits` this stage or
        `error` why not, whether it `has_recipe`, and whether it `can_be_mended`.
        """
        said: dict[str, Any] = {"key": dropped.key, "name": dropped.name, "lines": []}
        said |= {"fits": False, "error": None, "has_recipe": False, "can_be_mended": False}
        try:
            file = AdapterFile.read(dropped.path)
            found = inspect(file)
            shown = lines({**found, "file": dropped.name, "repair": None})
            said["lines"] = [plain(self._ours_out(line), LONGEST_LINE) for line in shown]
            said["has_recipe"] = found["recipe"] is not None
            if found["repair"]:
                said["can_be_mended"] = self._find_mend(dropped, file, stage)
            if stage is None:
                sound(file)
            else:
                stage.check(Located(dropped.path, file))
            if next(iter(found["programs"].values()))["count"] != found["unet_layers"]:
                raise ValueError(
                    f"diffusers would leave a part of {dropped.name} out, so it is not attached as "
                    "it stands"
                )
            said["fits"] = stage is not None
        except (ValueError, OSError) as error:
            said["error"] = plain(self._ours_out(str(error)), 2 * LONGEST_LINE)
        return said

    def _find_mend(self, dropped: Dropped, file: AdapterFile, stage: Stage | None) -> bool:
        mend = tried(file, no_check if stage is None else fits(stage.text))
        with self._lock:
            known = Dropped(dropped.key, dropped.name, dropped.path, dropped.is_ours, mend)
            self._files[dropped.key] = known
        return mend is not None

    def _ours_out(self, text: str) -> str:
        """A text without our own folder, which says nothing to anybody."""
        return re.sub(re.escape(f"{self.folder}/") + r"[\w-]+/", "", text)

    def mend(self, key: str) -> Dropped:
        """Writes what `lcm repair` makes of a file; the file itself stays as it is. Raises
        ValueError where nothing is known to help.
        """
        dropped = self[key]
        if dropped.mend is None:
            raise ValueError(f"{dropped.name} has nothing that can be repaired")
        name = f"{dropped.name[: -len(SUFFIX)]}-repaired{SUFFIX}"
        new = secrets.token_urlsafe(16)
        path = self._place(new, name)
        try:
            dropped.mend.write(AdapterFile.read(dropped.path), path)
        except BaseException:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise
        return self._keep(Dropped(new, name, path, is_ours=True))

    def attach(self, studio: Studio, key: str, scheduler: str | None) -> Loaded:
        """Attaches a file, once what is under way is drawn. Raises ValueError for one that does not
        fit.
        """
        dropped = self[key]
        at = Located(dropped.path, AdapterFile.read(dropped.path))
        try:
            loaded: Loaded = studio.change(lambda stage: stage.add(at, 1.0, scheduler)).result()
        except ValueError as error:
            raise ValueError(self._ours_out(str(error))) from error
        return loaded
