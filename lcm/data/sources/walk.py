"""The one rule for what lies below a folder of data, whatever source reads it.

Hidden names are passed over. Links to folders and to pictures are followed, without going round in
circles; a text behind a link is read only where its pictures lie with it, since any file reads as
text, a key or a password too, and captions are published. What is no file, as a pipe or a device,
is never opened. Nothing that is met goes unnamed.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath

from PIL import Image

from lcm.data.dropped import ENDLESS, NO_FILE, NO_FOLDER, READ_ALREADY, leave_out, pass_over
from lcm.data.formats import OTHER_SUFFIXES, readable_formats, readable_suffixes
from lcm.system.paths import is_folder


def is_hidden(path: PurePath) -> bool:
    """Whether a part of a path below a folder of data begins with a dot, as what systems and
    programs keep for themselves does: `._a.jpg`, `.DS_Store`, `.thumbnails/a.jpg`.
    """
    return any(part.startswith(".") and part not in (".", "..") for part in path.parts)


def is_picture(path: PurePath) -> bool:
    """Whether the name is that of a picture, read or not."""
    return path.suffix.lower() in (*readable_suffixes(), *OTHER_SUFFIXES)


def lexical(path: Path) -> Path:
    """Absolute, without "..", links not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps ".."


@dataclass
class Found:
    """The files below `root`, in the order of their paths, hidden ones left out, and the folders
    behind links that were entered, as they are without links.
    """

    root: Path
    files: list[Path] = field(default_factory=list)
    real_folders: list[Path] = field(default_factory=list)

    @cached_property
    def by_real_path(self) -> dict[Path, Path]:
        """The files by their places without links: one folder may have several names."""
        return {real_path(path): path for path in reversed(self.files)}

    def may_read(self, text: Path, pictures: Iterable[Path]) -> bool:
        """Whether a text may be read: it is no link, leads to a file of this data, or lies behind
        links together with one of its pictures, in the places that they have here or in one folder,
        by one name or in a store without names.
        """
        if not text.is_symlink():
            return True
        real = real_path(text)
        if real.name.startswith("."):
            return False
        for folder in self.real_folders:
            if real.is_relative_to(folder) and not is_hidden(real.relative_to(folder)):
                return True
        for picture in pictures:
            if picture.is_symlink() and picture.is_relative_to(text.parent):
                beside = real_path(picture)
                there = real.parent / picture.relative_to(text.parent)
                # a store of blobs keeps no names, any other those that belong together
                is_pair = beside.parent == real.parent and beside.stem in (real.stem, beside.name)
                if (beside == there or is_pair) and is_image(beside):
                    return True
        return False


def real_path(path: Path) -> Path:
    """Without links; where these go round in a circle, as far as they were followed. A name that no
    file can have stays as it is.
    """
    try:
        return Path(os.path.realpath(path))
    except ValueError:
        return path


def is_image(path: Path) -> bool:
    """Whether a file begins as a picture does, whatever its name."""
    try:
        with Image.open(path, formats=readable_formats()):
            return True
    except Exception:  # of a picture that is none Pillow raises what it likes
        return False


def blobs_of(folder: Path) -> list[Path]:
    """The folder that the files of a hub's cache are links to, for a folder in such a cache."""
    return [
        above.parent / "blobs"
        for above in folder.parents
        if above.name == "snapshots" and is_folder(above.parent / "blobs")
    ]


def walk(
    root: Path, dropped: Counter[str], is_wanted: Callable[[PurePath], bool] = is_picture
) -> Found:
    """The files below a folder. Every other thing there is in `dropped` by its name, of hidden ones
    what else had been wanted.
    """
    return Walk(root, dropped, is_wanted).found


class Walk:
    """Goes through a folder, what it holds itself first, so that a link to a part of it changes no
    name. No folder is entered twice.
    """

    def __init__(
        self, root: Path, dropped: Counter[str], is_wanted: Callable[[PurePath], bool]
    ) -> None:
        self.root, self.dropped, self.is_wanted = root, dropped, is_wanted
        real = real_path(root)
        self.found = Found(root, real_folders=[real, *blobs_of(real)])
        self.seen = {identity(folder) for folder in real.parents}
        self.folders, self.links = deque([root]), deque[Path]()
        while self.folders or self.links:
            self.enter(self.folders.popleft() if self.folders else self.next_link())
        self.found.files.sort()

    def next_link(self) -> Path:
        link = self.links.popleft()
        if identity(link) not in self.seen:
            self.found.real_folders.append(real_path(link))
        return link

    def enter(self, folder: Path) -> None:
        """Looks at what a folder holds."""
        if (known := identity(folder)) in self.seen:
            return leave_out(self.dropped, f"{self.name(folder)}/", READ_ALREADY)
        self.seen.add(known)
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    self.look_at(Path(folder, entry.name), entry)
        except OSError as error:
            leave_out(self.dropped, f"{self.name(folder)}/", NO_FOLDER, error.strerror or "")
        return None

    def look_at(self, path: Path, entry: os.DirEntry[str]) -> None:
        hidden = is_hidden(path.relative_to(self.root))
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            if not hidden:
                leave_out(self.dropped, self.name(path), NO_FILE, error.strerror or "")
            return
        if stat.S_ISDIR(mode):
            if not entry.is_symlink():
                self.folders.append(path)
            elif not hidden:
                self.links.append(path)
        elif hidden:
            if self.is_wanted(path):
                pass_over(self.dropped, self.name(path))
        elif stat.S_ISREG(mode):
            self.found.files.append(path)
        else:
            leave_out(self.dropped, self.name(path), ENDLESS, "it may never end")

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def identity(folder: Path) -> tuple[int, int] | str:
    """What one folder has under all of its names."""
    try:
        facts = folder.stat()
    except OSError:
        return str(folder)
    return facts.st_dev, facts.st_ino
