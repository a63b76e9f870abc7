"""Where a run keeps things: real folders, or temporary ones in a dry run."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from pathlib import Path

from lcm.config.run import TrainConfig
from lcm.system.processes import Team


def open_cache(config: TrainConfig, team: Team) -> Path | None:
    """The folder for --cache_latents, None without it. Raises ValueError when it cannot be made, or
    is not the same for all.
    """
    if config.cache_folder is None:
        return None
    if config.dry_run:  # every process for itself
        return temporary_folder()
    folder = config.cache_folder
    team.together(lambda: make_folder(folder, "latent_cache_dir"))
    team.check_shared(folder, "latent_cache_dir")
    return folder


def make_folder(folder: Path, flag: str) -> None:
    """With those above it. Raises ValueError naming the flag."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{flag}: {folder} cannot be written ({error}); choose another folder"
        ) from error


def temporary_folder() -> Path:
    """For this process alone; gone when it ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def name_of(output_dir: Path) -> str:
    """Of a run among those that share a folder of trajectories, made with its output folder. The
    path alone would not do: on two machines it can be two folders.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    return hashlib.sha256(
        f"{output_dir.resolve()} {output_dir.stat().st_ino}".encode()
    ).hexdigest()[:16]
