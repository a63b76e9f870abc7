"""Pictures as bytes, sound and hostile."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(color: Any, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> Image.Image:
    return Image.new(mode, size, color)


COLORS = (RED, GREEN, BLUE)


def claiming(width: int, height: int) -> bytes:
    """A tiny PNG whose header states another size."""
    data = bytearray(encoded(plain(RED)))
    struct.pack_into(">II", data, 16, width, height)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))


HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "unreadable"),
    "text": (b"this is no picture", "unreadable"),
    "half a jpeg": (encoded(NOISE, "JPEG")[:800], "unreadable"),
    "half a png": (encoded(NOISE)[:800], "unreadable"),
    "gif": (encoded(plain(RED), "GIF"), "unreadable"),
    "animated gif": (
        encoded(plain(RED), "GIF", save_all=True, append_images=[plain(BLUE)]),
        "unreadable",
    ),
    "postscript": (encoded(plain(RED), "EPS"), "unreadable"),
    "floats": (encoded(plain(0.5, "F"), "TIFF"), "unreadable"),
    "32 bits": (encoded(plain(1 << 20, "I"), "TIFF"), "unreadable"),
    "bomb that PIL warns of": (claiming(10_000, 10_000), "too large to decode safely"),
    "bomb that PIL refuses": (claiming(60_000, 60_000), "too large to decode safely"),
}
