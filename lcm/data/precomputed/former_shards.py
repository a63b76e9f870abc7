"""Files of trajectories as earlier versions wrote them, read where they lie: to draw them again
takes hours.

`shard-00002.safetensors` holds the trajectories 128 to 191 of its folder in one tensor [64, M, C,
h, w] float16, with one SHA-256 for all of its bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lcm.data.precomputed.identity import as_bytes

SHARD = 64
"""Trajectories in one file."""

TENSOR, DIGEST = "trajectories", "sha256"
NAME = re.compile(r"shard-(\d{5,})\.safetensors")


def is_shard(path: Path) -> bool:
    """Whether the file has the name of such a shard."""
    return NAME.fullmatch(path.name) is not None


def entries_of_shard(path: Path, file: Any) -> list[tuple[str, str]]:
    """(key, digest of the whole shard) of every row of an open shard; none without a digest."""
    digest, found = (file.metadata() or {}).get(DIGEST), NAME.fullmatch(path.name)
    if digest is None or found is None:
        return []
    shape = file.get_slice(TENSOR).get_shape()
    if not shape:
        return []
    first = int(found[1]) * SHARD
    return [(str(first + row), digest) for row in range(int(shape[0]))]


def is_sound(tensors: Mapping[str, Tensor], entries: Sequence[tuple[str, str]]) -> bool:
    """Whether every byte of a shard is what was written."""
    return hashlib.sha256(as_bytes(tensors[TENSOR])).hexdigest() == entries[0][1]
