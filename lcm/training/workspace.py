"""Where a run keeps what it computes once, and with whom it shares that: real folders and the team,
or, in a dry run, temporary folders and this process alone.
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lcm.data.config import CacheConfig
from lcm.outputs.folder import TRAJECTORIES
from lcm.system.paths import obstacle
from lcm.system.processes import ALONE, Team


class Workspace(Protocol):
    """Folders, and the `team` that fills them.

    `cache` is the folder of --cache_latents, None without it. `limit` is how many samples are
    prepared at most, None for all. `is_kept` says whether anything outlives the process.
    """

    @property
    def cache(self) -> Path | None: ...

    @property
    def team(self) -> Team: ...

    @property
    def limit(self) -> int | None: ...

    @property
    def is_kept(self) -> bool: ...

    def open_trajectories(self) -> tuple[Path, str | None]:
        """The folder of trajectories, and the name of this run among those that share it."""


@dataclass(frozen=True)
class RunWorkspace:
    """The folders that the flags name, shared by the processes of the run."""

    output_dir: Path
    cache: Path | None
    trajectories: Path
    team: Team
    limit: int | None = None
    is_kept: bool = True

    @classmethod
    def open(cls, output_dir: Path, cache: CacheConfig, team: Team) -> RunWorkspace:
        """Makes the folder of the cache. Raises ValueError, on all processes, when it cannot be
        made, or is not the same for all.
        """
        if cache.folder is not None:
            make_shared(cache.folder, "latent_cache_dir", team)
        return cls(output_dir, cache.folder, trajectory_folder(cache, output_dir), team)

    def open_trajectories(self) -> tuple[Path, str]:
        """The folder of trajectories, made now, and the name of this run among those that share it.

        Raises ValueError, on all processes, when it cannot be made, or is not the same for all.
        """
        owner = self.team.from_main(lambda: name_of(self.output_dir))
        make_shared(self.trajectories, "trajectory_dir", self.team)
        return self.trajectories, owner


@dataclass(frozen=True)
class TemporaryWorkspace:
    """Folders that are gone with this process, filled by it alone, for a few samples."""

    cache: Path | None
    limit: int | None
    team: Team = ALONE
    is_kept: bool = False

    @classmethod
    def open(cls, cache: CacheConfig, limit: int) -> TemporaryWorkspace:
        """Makes a temporary folder in the place of the cache."""
        return cls(temporary_folder() if cache.cache_latents else None, limit)

    def open_trajectories(self) -> tuple[Path, None]:
        """A temporary folder that no other run shares."""
        return temporary_folder(), None


def trajectory_folder(cache: CacheConfig, output_dir: Path) -> Path:
    """The folder in which the trajectories of all teachers and prompts lie."""
    return Path(cache.trajectory_dir or output_dir / TRAJECTORIES)


def written_folders(cache: CacheConfig, output_dir: Path) -> list[Path]:
    """The folders that a run writes into, its own first."""
    others = [trajectory_folder(cache, output_dir), Path(tempfile.gettempdir())]
    return [output_dir, *([cache.folder] if cache.folder else []), *others]


def make_shared(folder: Path, flag: str, team: Team) -> None:
    """Makes a folder of all processes. Raises ValueError, on all of them, when it cannot be made,
    or is not the same for all.
    """
    team.together(lambda: make_folder(folder, flag))
    team.check_shared(folder, flag)


def make_folder(folder: Path, flag: str) -> None:
    """Makes a folder with those above it. Raises ValueError naming the flag."""
    if (what := obstacle(folder)) is not None:
        raise ValueError(f"{flag}: {what}; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{flag}: {folder} cannot be written ({error}); choose another folder"
        ) from error


def temporary_folder() -> Path:
    """A folder for this process alone; gone when it ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def name_of(output_dir: Path) -> str:
    """A name of this run among those that share a folder of trajectories; makes the output folder.

    The path alone would not do: on two machines it can be two folders.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    identity = f"{output_dir.resolve()} {output_dir.stat().st_ino}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]
