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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from lcm.data.captions import (
    CAPTION_SUFFIXES,
    MOST_BYTES,
    BadTextError,
    as_captions,
    caption_lines,
    decode,
)
from lcm.data.config import DataConfig
from lcm.data.dropped import (
    BAD_TEXT,
    HIDDEN,
    NO_CAPTION,
    NO_IMAGE,
    OTHER_FORMAT,
    LeftOut,
    leave_out,
    pass_over,
)
from lcm.data.formats import IMAGE_SUFFIXES, OTHER_SUFFIXES, readable_suffixes, remedy
from lcm.data.records import Record, stamp_of
from lcm.data.sources.base import Source
from lcm.data.sources.files import find_files
from lcm.data.sources.walk import is_hidden, is_picture

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
SEVERAL_IMAGES = "with several images"
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

    def read(self, most: int | None = None) -> io.BytesIO:
        """Its bytes, the first so many at most."""
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size if most is None else min(most, self.size)))


def read_tars(where: str, config: DataConfig, dropped: Counter[str]) -> Iterator[Record]:
    """Files of the same name up to the first dot are a sample: one image, and captions in its .txt,
    .caption or .json.
    """
    base, tars = find_files("webdataset", where, ".tar", dropped)
    for tar in tars:
        name, stamp = tar.relative_to(base).as_posix(), stamp_of(tar)
        for key, found in read_tar(tar, config.caption_column):
            if isinstance(found, LeftOut) and found.reason == HIDDEN:
                pass_over(dropped, f"{name}/{key}")
            elif isinstance(found, LeftOut):
                leave_out(dropped, f"{name}/{key}", found.reason, found.why)
            else:
                image, captions = found
                yield Record(
                    f"{name}/{key}", captions, image.read, image.size, f"{stamp}@{image.offset}"
                )


Read = tuple[Part, tuple[str, ...]] | LeftOut
"""The image of a sample and its captions, or why it is left out."""


def read_tar(tar: Path, caption_column: str) -> Iterator[tuple[str, Read]]:
    """Every sample's key with what is read of it, and hidden pictures by their names."""
    members, is_whole = index_tar(tar)
    samples: dict[str, dict[str, Part]] = {}
    twice: set[str] = set()
    last_key = ""
    for name, part in members:
        if is_hidden(PurePosixPath(name)):
            if is_picture(PurePosixPath(name)):
                yield name, LeftOut(name, HIDDEN)
            continue
        key, extension = split_name(name)
        if not key or not extension:
            continue
        sample, last_key = samples.setdefault(key, {}), key
        if extension in sample:
            twice.add(key)
        if part is not None:
            sample[extension] = part
    for key, sample in samples.items():
        found = (
            LeftOut(key, NAMED_TWICE) if key in twice else read_sample(key, sample, caption_column)
        )
        is_cut = isinstance(found, LeftOut) and key == last_key and not is_whole
        yield key, LeftOut(key, CUT_OFF) if is_cut else found


def split_name(name: str) -> tuple[str, str]:
    """Key and extension, as webdataset has them: "a/b.seg.png" is ("a/b", "seg.png")."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return str(path.with_name(stem)) if stem else "", extension.lower()


def read_sample(key: str, sample: dict[str, Part], caption_column: str) -> Read:
    """The image and its captions from the files of a sample by extension, or the reason for leaving
    it out.
    """
    images = [part for extension, part in sample.items() if f".{extension}" in IMAGE_SUFFIXES]
    # those that a plugin reads count where there is no other, so that it takes no sample away
    images = images or [
        part for extension, part in sample.items() if f".{extension}" in readable_suffixes()
    ]
    if len(images) != 1:
        others = [f".{name}" for name in sample if f".{name}" in OTHER_SUFFIXES]
        if images or not others:
            return LeftOut(key, SEVERAL_IMAGES if images else NO_IMAGE)
        return LeftOut(key, OTHER_FORMAT, remedy(others[0]))
    try:
        captions = read_captions(sample, caption_column)
    except BadTextError as error:
        return LeftOut(key, BAD_TEXT, str(error))
    except (ValueError, RecursionError) as error:
        return LeftOut(key, BAD_JSON, str(error))
    if captions:
        return images[0], captions
    others = [name for name in sample if name.endswith(tuple(s[1:] for s in CAPTION_SUFFIXES))]
    unread = [name for name in others if f".{name}" not in CAPTION_SUFFIXES]
    return LeftOut(key, NO_CAPTION, f"its .{unread[0]} is not read" if unread else "")


def read_captions(sample: dict[str, Part], caption_column: str) -> tuple[str, ...]:
    """The captions from the .txt, the .caption and, where these have none, the .json.

    Raises BadTextError for captions that cannot be read, ValueError or RecursionError where the
    .json is none.
    """
    for suffix in CAPTION_SUFFIXES:
        if part := sample.get(suffix[1:]):
            with naming(suffix):
                captions = caption_lines(part.read(MOST_BYTES + 1).getvalue())
            if captions:
                return captions
    if "json" not in sample:
        return ()
    fields = json.loads(decode_json(sample["json"].read(MOST_BYTES + 1).getvalue()))
    with naming(".json"):
        return as_captions(fields.get(caption_column)) if isinstance(fields, dict) else ()


@contextmanager
def naming(suffix: str) -> Iterator[None]:
    """Says of a text that cannot be read which file of the sample it is."""
    try:
        yield
    except BadTextError as error:
        raise BadTextError(f"its {suffix} {error}") from error


def decode_json(content: bytes) -> str:
    """The text of a JSON file. Raises ValueError for what is none, which is no fault of a
    caption's.
    """
    try:
        return decode(content)
    except BadTextError as error:
        raise ValueError(str(error)) from error


def index_tar(tar: Path) -> tuple[list[tuple[str, Part | None]], bool]:
    """Name and place of everything but folders, None for what is cut off or no plain file, and
    whether the tar is whole. Warns when it is not.

    Raises ValueError for what cannot be read in place.
    """
    members: list[tuple[str, Part | None]] = []
    total = tar.stat().st_size
    with tar.open("rb") as file:
        archive = open_tar(tar, file)
        try:
            for member in iter(archive.next, None):
                if not member.isdir():
                    members.append((member.name, part_of(tar, member, total)))
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


def part_of(tar: Path, member: tarfile.TarInfo, total: int) -> Part | None:
    """The place of a plain file that is all there, in a tar of `total` bytes."""
    is_there = 0 <= member.size <= total - member.offset_data
    if is_there and member.isreg() and not member.issparse():
        return Part(tar, member.offset_data, member.size)
    return None


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
