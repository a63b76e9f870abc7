"""Tar shards in the layout of webdataset, indexed once and read by byte offset; nothing is ever
unpacked to disk.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from lcm.data.config import DataConfig
from lcm.data.records import (
    IMAGE_SUFFIXES,
    NO_CAPTION,
    OTHER_FORMAT,
    OTHER_SUFFIXES,
    Record,
    as_captions,
    caption_lines,
    stamp_of,
)
from lcm.data.sources.base import Source
from lcm.data.sources.files import find_files

logger = logging.getLogger(__name__)

COMPRESSIONS = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\x00": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
"""First bytes of a compressed file -> what undoes it."""

DAMAGE = (tarfile.TarError, ValueError, LookupError, OverflowError, RecursionError)
"""What tarfile raises on bytes that are no tar."""

CUT_OFF = "cut off at the end of a tar"
NO_IMAGE, SEVERAL_IMAGES = "without an image", "with several images"
NAMED_TWICE = "named twice in a tar"
BAD_JSON = "with a .json that is no JSON"


@dataclass(frozen=True)
class Part:
    """A file inside a tar, by its place there: no file stays open, so that workers may be forked or
    sent a copy.
    """

    tar: Path
    offset: int
    size: int

    def read(self) -> io.BytesIO:
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))


def read_tars(where: str, config: DataConfig, dropped: Counter[str]) -> Iterator[Record]:
    """Files of the same name up to the first dot are a sample: one image, and captions in its .txt
    or .json.
    """
    base, tars = find_files("webdataset", where, ".tar")
    for tar in tars:
        name, stamp = tar.relative_to(base).as_posix(), stamp_of(tar)
        for key, found in read_tar(tar, config.caption_column):
            if isinstance(found, str):
                dropped[found] += 1
            else:
                image, captions = found
                yield Record(
                    f"{name}/{key}", captions, image.read, image.size, f"{stamp}@{image.offset}"
                )


def read_tar(
    tar: Path, caption_column: str
) -> Iterator[tuple[str, tuple[Part, tuple[str, ...]] | str]]:
    """Every sample's key with its image and captions, or with the reason for leaving it out."""
    members, is_whole = index_tar(tar)
    samples: dict[str, dict[str, Part]] = {}
    twice: set[str] = set()
    last_key = ""
    for name, part in members:
        key, extension = split_name(name)
        if not key or not extension:
            continue
        sample, last_key = samples.setdefault(key, {}), key
        if extension in sample:
            twice.add(key)
        if part is not None:
            sample[extension] = part
    for key, sample in samples.items():
        found = NAMED_TWICE if key in twice else read_sample(sample, caption_column)
        is_cut = isinstance(found, str) and key == last_key and not is_whole
        yield key, CUT_OFF if is_cut else found


def split_name(name: str) -> tuple[str, str]:
    """Key and extension, as webdataset has them: "a/b.seg.png" is ("a/b", "seg.png"). Hidden files
    have an empty key.
    """
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return str(path.with_name(stem)) if stem else "", extension.lower()


def read_sample(sample: dict[str, Part], caption_column: str) -> tuple[Part, tuple[str, ...]] | str:
    """The image and its captions from the files of a sample by extension, or the reason for leaving
    it out.
    """
    images = [part for extension, part in sample.items() if f".{extension}" in IMAGE_SUFFIXES]
    if len(images) != 1:
        has_other = any(f".{extension}" in OTHER_SUFFIXES for extension in sample)
        return SEVERAL_IMAGES if images else OTHER_FORMAT if has_other else NO_IMAGE
    try:
        captions = read_captions(sample, caption_column)
    except (ValueError, RecursionError):
        return BAD_JSON
    return (images[0], captions) if captions else NO_CAPTION


def read_captions(sample: dict[str, Part], caption_column: str) -> tuple[str, ...]:
    """The captions from the .txt and, where that has none, the .json. Raises ValueError or
    RecursionError for what is no JSON.
    """
    captions: tuple[str, ...] = ()
    if "txt" in sample:
        captions = caption_lines(
            sample["txt"].read().getvalue().decode("utf-8-sig", errors="replace")
        )
    if not captions and "json" in sample:
        fields = json.loads(sample["json"].read().getvalue().decode("utf-8-sig"))
        captions = as_captions(fields.get(caption_column)) if isinstance(fields, dict) else ()
    return captions


def index_tar(tar: Path) -> tuple[list[tuple[str, Part | None]], bool]:
    """Name and place of every plain file, None for one that is cut off, and whether the tar is
    whole. Warns when it is not.

    Raises ValueError for what cannot be read in place.
    """
    members: list[tuple[str, Part | None]] = []
    total = tar.stat().st_size
    with tar.open("rb") as file:
        archive = open_tar(tar, file)
        try:
            for member in iter(archive.next, None):
                if member.isreg() and not member.issparse():
                    is_there = 0 <= member.size <= total - member.offset_data
                    members.append(
                        (
                            member.name,
                            Part(tar, member.offset_data, member.size) if is_there else None,
                        )
                    )
                if archive.offset <= member.offset:  # a negative size would lead round in a circle
                    raise tarfile.ReadError("it goes backwards")
            file.seek(archive.offset)
            # the mark at the end of a tar
            is_whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        except DAMAGE:
            is_whole = False
    if not is_whole:
        logger.warning(
            "%s is cut short or damaged: only its complete samples are kept; download it again", tar
        )
    return members, is_whole


def open_tar(tar: Path, file: BinaryIO) -> tarfile.TarFile:
    """Raises ValueError for a compressed tar, whose files have no place of their own, and for what
    is no tar.
    """
    head = file.read(8)
    file.seek(0)
    for magic, command in COMPRESSIONS.items():
        if head.startswith(magic):
            raise ValueError(
                f"webdataset: {tar} is compressed, and no sample of it can be read alone; unpack "
                f"it with {command}"
            )
    try:
        return tarfile.TarFile(fileobj=file, encoding="utf-8")
    except DAMAGE as error:
        raise ValueError(
            f"webdataset: {tar} is no tar ({error}); download it again or leave it out"
        ) from error


WEBDATASET = Source(
    read_tars,
    add_captions=(
        "put a .txt or a .json with the field {} beside every image in the tar, or pass "
        "--caption_column"
    ),
)
