"""Which files are pictures: by their names, and by what Pillow can read here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from PIL import Image, features

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""What is read everywhere, whatever its name: PIL would start Ghostscript for an EPS named .png."""

OTHER_SUFFIXES = (
    *(".gif", ".avif", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".svg", ".eps", ".psd", ".ppm"),
    *(".tga", ".ico", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
)
"""Images that are read only where a plugin does, and are else counted so that nobody takes them for
training data.
"""


@dataclass(frozen=True)
class Added:
    """A format that Pillow reads where it was built with it, or where a plugin is installed: the
    `module` of the `package`, whose `register` is called where importing it is not enough.
    """

    format: str
    suffixes: tuple[str, ...]
    module: str
    package: str
    register: str = ""
    begins: Callable[[bytes], bool] = lambda _: False

    def is_readable(self) -> bool:
        """Whether Pillow reads it here; makes it do so where it can."""
        if self.format.lower() in features.get_supported():
            return True
        try:
            plugin = import_module(self.module)
            if self.register:
                getattr(plugin, self.register)()
        except (ImportError, AttributeError, OSError):  # absent, or without its shared libraries
            return False
        return self.format in Image.OPEN


def is_of_brand(*brands: bytes) -> Callable[[bytes], bool]:
    """Whether a file in the container of MPEG-4 begins as one of these kinds does."""
    return lambda head: head[4:8] == b"ftyp" and head[8:12] in brands


ADDED = (
    Added(
        *("AVIF", (".avif",), "pillow_avif", "pillow-avif-plugin"),
        begins=is_of_brand(b"avif", b"avis"),
    ),
    Added(
        *("HEIF", (".heic", ".heif", ".hif"), "pillow_heif", "pillow-heif"),
        register="register_heif_opener",
        begins=is_of_brand(*(b"heic", b"heix", b"hevc", b"hevx", b"heim", b"mif1", b"msf1")),
    ),
    Added(
        *("JXL", (".jxl",), "pillow_jxl", "pillow-jxl-plugin"),
        begins=lambda head: head.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")),
    ),
)
"""Formats that are read where Pillow can."""


@cache
def added() -> tuple[Added, ...]:
    """The formats of `ADDED` that this machine reads."""
    return tuple(one for one in ADDED if one.is_readable())


def readable_formats() -> tuple[str, ...]:
    """What a picture may hold, by Pillow's names."""
    return (*IMAGE_FORMATS, *(one.format for one in added()))


def readable_suffixes() -> tuple[str, ...]:
    """The ends of the names of pictures, in lower case; those that are read everywhere first."""
    return (*IMAGE_SUFFIXES, *(suffix for one in added() for suffix in one.suffixes))


def remedy(suffix: str = "", content: bytes = b"") -> str:
    """What makes a picture readable, by the end of its name or its first bytes; "" where nothing is
    known to.
    """
    for one in ADDED:
        if one not in added() and (suffix in one.suffixes or one.begins(content)):
            return f"it is {one.format}: pip install {one.package} to read it, or save it as JPEG"
    return ""
