"""Pictures and prompts encoded once, on disk, for all epochs and runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lcm.data.precomputed.latents import (
    EncodedSamples,
    Encoder,
    PictureSet,
    encode_samples,
    picture_rows,
)
from lcm.data.precomputed.prompts import encode_prompts, prompt_rows
from lcm.data.precomputed.rows import MANIFEST, Rows
from lcm.data.precomputed.store import Store


def stores(directory: Path) -> Iterator[tuple[dict[str, Any], Store]]:
    """(manifest, store) of every folder in a cache."""
    for path in sorted(directory.glob(f"*/{MANIFEST}")):
        yield json.loads(path.read_text()), Store(path.parent)


__all__ = [
    "EncodedSamples",
    "Encoder",
    "PictureSet",
    "Rows",
    "Store",
    "encode_prompts",
    "encode_samples",
    "picture_rows",
    "prompt_rows",
    "stores",
]
