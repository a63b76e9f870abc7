"""What Windows forbids that POSIX allows, where the tests run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest


def in_use() -> set[str]:
    """The files that this process has open or mapped into its memory."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(str(descriptor.readlink()))
    for line in Path("/proc/self/maps").read_text().splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6:
            found.add(parts[5])
    return found


@contextmanager
def rules_of_windows() -> Iterator[list[str]]:
    """Inside the block nothing that is open or mapped can be removed, renamed or replaced, nor a
    folder with such be renamed, and no rename replaces what is there. Gives what was refused so,
    which a caller may have swallowed, without the files of locks.
    """
    refused: list[str] = []

    def check(*paths: Any) -> None:
        for path in paths:
            full = str(Path(path).parent.resolve() / Path(path).name)
            for busy in in_use():
                if busy == full or busy.startswith(full + os.sep):
                    if not full.endswith(".lock"):  # which is let go of and removed by its library
                        refused.append(full)
                    raise PermissionError(13, "The process cannot access the file", str(path))

    def guarded(function: Callable[..., Any], renames: bool) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **options: Any) -> Any:
            check(path, *(rest[:1] if renames else ()))
            if function is rename and os.path.lexists(rest[0]):
                refused.append(str(rest[0]))
                raise FileExistsError(17, "Cannot create a file that exists", str(rest[0]))
            return function(path, *rest, **options)

        return call

    rename = os.rename
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "_use_fd_functions", False)
        for name in ("rename", "replace", "unlink", "remove"):
            patch.setattr(os, name, guarded(getattr(os, name), name in ("rename", "replace")))
        yield refused
