"""One sample before any random choice: its key, its captions, and its picture as RGB."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lcm.data.dropped import BAD_NAME, leave_out
from lcm.data.formats import readable_formats
from lcm.system.text import is_utf8

logger = logging.getLogger(__name__)

MOST_BYTES = 1 << 30
"""The largest encoded picture that is read; the largest that are decoded have 270 MB of pixels."""


class TooLargeError(ValueError):
    """A file that is no picture of a size that is decoded."""


@dataclass(frozen=True)
class Record:
    """One sample before any random choice. `key` names it in messages and seeds its random numbers.

    Without `read` it has no picture to open: it is a prompt, or its picture went by in a stream.
    """

    key: str
    captions: tuple[str, ...]
    read: Callable[[], io.BytesIO | Path] | None = None
    size: int = 0  # of the file in bytes, where that is known for free
    # changes when the picture does, known without reading it; empty where there is no such thing
    stamp: str = ""
    flaw: str = ""  # why it is no sample, where that is known without the picture

    def image(self) -> Image.Image:
        """The picture, the first one of an animation, upright, RGB, white where it is transparent.

        Raises ValueError where there is none to open and for pixels without a known range,
        UnidentifiedImageError for another format.
        """
        return self.decode(self.open())

    def open(self) -> io.BytesIO | Path:
        """Where the encoded picture can be read. Raises ValueError where there is none."""
        if self.read is None:
            raise ValueError(
                f"sample {self.key} has no picture to open; train on its trajectory or its latents "
                "instead"
            )
        return self.read()

    def open_bytes(self) -> bytes:
        """The encoded picture. Raises ValueError where there is none, or one that is too large."""
        if self.size > MOST_BYTES:
            raise TooLargeError(f"its file has more than {MOST_BYTES >> 20} MiB")
        source = self.open()
        if isinstance(source, Path) and source.stat().st_size > MOST_BYTES:
            raise TooLargeError(f"its file has more than {MOST_BYTES >> 20} MiB")
        return source.read_bytes() if isinstance(source, Path) else source.getvalue()

    @staticmethod
    def decode(source: io.BytesIO | Path) -> Image.Image:
        """The picture, as `image` has it, of what `open` gave."""
        with Image.open(source, formats=readable_formats()) as image:
            return as_rgb(ImageOps.exif_transpose(image) or image)


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture as it looks on a white page. Raises ValueError for pixels without a known
    range.
    """
    if image.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip to white
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"its values of {values.min()} to {values.max()} are more than 16 bits; save it "
                "with 8 or 16"
            )
        image = Image.fromarray((values // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError(
            "it has floating-point pixels, whose range is unknown; save it with 8 or 16 bits"
        )
    # convert("RGB") would bring back the colours that are hidden there
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def fingerprint(records: list[Record]) -> str:
    """SHA-256 of all keys, file sizes and captions: resuming on other data is refused by it."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.key, record.size, *record.captions]).encode())
    return digest.hexdigest()


def drop_bad_names(records: Iterable[Record], dropped: Counter[str]) -> Iterator[Record]:
    """Random numbers follow from the UTF-8 of a key, which names in other encodings do not have."""
    for record in records:
        if is_utf8(record.key):
            yield record
        else:
            logger.warning("skipping %r, whose name is not UTF-8; rename it", record.key)
            leave_out(dropped, record.key, BAD_NAME)


def stamp_of(path: Path) -> str:
    """A text that changes when the file does, without reading it."""
    facts = path.stat()
    return f"{path.resolve()}:{facts.st_size}:{facts.st_mtime_ns}"
