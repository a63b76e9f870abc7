"""One sample before any random choice: its key, its captions, and its picture as RGB."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""What a file may hold, whatever its name: PIL would start Ghostscript for an EPS named .png."""


@dataclass(frozen=True)
class Record:
    """One sample before any random choice. `key` names it in messages and seeds its random numbers."""

    key: str
    captions: tuple[str, ...]
    read: Callable[[], io.BytesIO | Path] | None = None  # None: a prompt without a picture
    size: int = 0  # of the file in bytes, where that is known for free

    def image(self) -> Image.Image:
        """The picture, upright, RGB. Raises ValueError for a prompt without one, UnidentifiedImageError for another format."""
        if self.read is None:
            raise ValueError(f"sample {self.key} is a prompt without a picture; train on its trajectory instead")
        with Image.open(self.read(), formats=IMAGE_FORMATS) as image:
            upright = ImageOps.exif_transpose(image) or image
            if upright.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip to white
                upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
            return upright.convert("RGB")


def fingerprint(records: list[Record]) -> str:
    """SHA-256 of all keys, file sizes and captions: resuming on other data is refused by it."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.key, record.size, *record.captions]).encode())
    return digest.hexdigest()


def drop_unreadable(records: list[Record], dropped: Counter[str]) -> list[Record]:
    """Decodes every image once, so that a broken file is found before the run and not in its middle."""

    def is_readable(record: Record) -> bool:
        try:
            record.image()
        except Exception as error:
            logger.warning("skipping %s, which cannot be read as an image (%s): %s", record.key, ", ".join(IMAGE_FORMATS), error)
            return False
        return True

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        checks = tqdm(pool.map(is_readable, records), total=len(records), desc="checking images", leave=False, disable=None)
        readable = list(checks)
    kept = [record for record, good in zip(records, readable, strict=True) if good]
    if len(kept) < len(records):
        dropped["unreadable"] += len(records) - len(kept)
    return kept


def as_captions(value: Any) -> tuple[str, ...]:
    """The non-empty captions in a cell that holds a string, a list of strings, or nothing."""
    candidates = value if isinstance(value, list | tuple) else [value]
    return tuple(text.strip() for text in candidates if isinstance(text, str) and text.strip())
