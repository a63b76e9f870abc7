"""Trajectories on disk: safetensors files of 64, each complete and sound or not there at all."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lcm.data.precomputed.identity import as_bytes
from lcm.system.atomic import recover, replacing

SHARD = 64
"""Trajectories in one file: 102 MiB of Stable Diffusion at 512 pixels and 50 steps, 2 MiB of clean
latents alone.
"""

OPEN_SHARDS = 8
TENSOR, DIGEST = "trajectories", "sha256"


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def shard_rows(count: int, number: int) -> range:
    """Which of `count` trajectories the shard holds."""
    return range(number * SHARD, min(count, (number + 1) * SHARD))


def num_shards(count: int) -> int:
    return -(-count // SHARD)


def write_shard(path: Path, trajectories: Tensor, owner: str) -> None:
    """[n, M, C, h, w] as float16; the file appears by one rename, its SHA-256 in its header.

    Runs that share a folder may write the same shard at the same time: `owner` names this one.
    """
    stored = trajectories.half().cpu().contiguous()
    with replacing(path, f".{owner}") as partial:
        save_file(
            {TENSOR: stored},
            partial,
            metadata={DIGEST: hashlib.sha256(as_bytes(stored)).hexdigest()},
        )


def clear_shards(folder: Path, owner: str) -> None:
    """Removes what this run was writing when it was killed."""
    recover(folder, [f"shard-*.{owner}"])


def shard_shape(path: Path) -> tuple[int, ...] | None:
    """The shape that the header states, None for a file that is missing, cut short or no shard.
    Reads the header alone.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return tuple(file.get_slice(TENSOR).get_shape())
    except (OSError, SafetensorError):
        return None


def is_sound(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether the shard is there, of this shape, and every byte is what was written; reads all of
    it.
    """
    if shard_shape(path) != shape:
        return False
    with safe_open(path, framework="pt") as file:
        digest = hashlib.sha256(as_bytes(file.get_tensor(TENSOR))).hexdigest()
        return bool((file.metadata() or {}).get(DIGEST) == digest)


class Trajectories:
    """The stored trajectories by index, each [M, C, h, w] float32: clean latents first.

    Holds paths alone and opens files when asked, so that it costs a worker process nothing.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count
        self._open = lru_cache(maxsize=OPEN_SHARDS)(
            lambda number: safe_open(shard_path(folder, number), framework="pt")
        )

    def __reduce__(self) -> tuple[type[Trajectories], tuple[Path, int]]:
        return type(self), (self.folder, self.count)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        """Raises IndexError beyond the last one."""
        if not 0 <= index < self.count:
            raise IndexError(f"there are {self.count} trajectories; got index {index}")
        number, row = divmod(index, SHARD)
        trajectory: Tensor = self._open(number).get_slice(TENSOR)[row]
        return trajectory.float()
