"""The teacher's own pictures of a grid's prompts and seeds, as latents in the output folder: drawn
once in a run, and found again when it is resumed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lcm.adapter.files import save_tensors
from lcm.data.precomputed.identity import as_bytes
from lcm.system.atomic import replacing
from lcm.system.paths import is_regular

LATENTS, KEY, DIGEST = "latents", "key", "sha256"


def digest_of(latents: Tensor) -> str:
    """The SHA-256 of their bytes."""
    return hashlib.sha256(as_bytes(latents)).hexdigest()


def write_reference(path: Path, key: str, latents: Tensor) -> None:
    """Keeps latents [N, S, C, h, w] float32, complete or not at all, the same in the same bytes.
    `key` stands for all that they follow from.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        facts = {KEY: key, DIGEST: digest_of(latents)}
        save_tensors({LATENTS: latents.contiguous()}, partial, metadata=facts)


def read_reference(path: Path, key: str) -> Tensor | None:
    """What was kept with this `key`; None where nothing was, or it is damaged."""
    if not is_regular(path):
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get(KEY) != key:
                return None
            latents: Tensor = file.get_tensor(LATENTS).clone()
    except (SafetensorError, OSError, ValueError):
        return None
    return latents if digest_of(latents) == facts.get(DIGEST) else None
