"""What others may be shown of the names of models and data: hub ids, but no paths of this machine,
which often name people.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*(/[\w./-]+\.safetensors)?)?", re.ASCII)
"""A name of the hub: name, owner/name, or one file of a repository."""
NAMELESS = "local-model"
"""What is shown of a folder without a name of its own: a root, or somebody's home."""


def public_name(path: str) -> str:
    """A hub id as it is; of a folder or file on this machine, however it was named, its own name
    alone. What is public already stays as it is.
    """
    if on_the_hub(path):
        return path
    parts = [part for part in re.split(r"[\\/]", path) if part]  # of this system or of Windows
    if parts and parts[-1] in (".", ".."):
        parts = [expanded(path).resolve().name]
    name = re.sub(r"^[A-Za-z]:", "", parts[-1]) if parts else ""
    is_home = len(parts) == 1 and name.startswith("~")  # ~ and ~alice
    return NAMELESS if is_home or name in ("", expanded("~").name) else name


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with the home that a ~ stands for; as it is where the system knows of none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def on_the_hub(name: str | None) -> bool:
    """Whether a model or data set that was loaded by this name came from the hub."""
    return (
        name is not None
        and HUB_ID.fullmatch(name) is not None
        and ".." not in name.split("/")
        and not Path(name).exists()
    )


@dataclass(frozen=True)
class Named:
    """A model or file as code on this machine names it, from any folder, and as others are to read
    it.
    """

    local: str
    public: str

    @classmethod
    def of(cls, path: str) -> Named:
        """What was loaded by this name: a path, relative or not, or a hub id."""
        here = expanded(path)
        return cls(str(here.absolute()) if here.exists() else path, public_name(path))

    @property
    def is_local(self) -> bool:
        """Whether others cannot load it by its public name."""
        return self.local != self.public
