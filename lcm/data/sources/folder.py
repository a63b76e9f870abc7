"""A folder of images, captions in metadata files or beside each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from lcm.data.captions import CAPTION_SUFFIXES, BadTextError, read_captions
from lcm.data.config import DataConfig
from lcm.data.dropped import (
    BAD_TEXT,
    LINKED_OUT,
    NAMED_TWICE,
    NO_CAPTION,
    NO_IMAGE,
    OTHER_FORMAT,
    example,
    hint,
    leave_out,
)
from lcm.data.formats import OTHER_SUFFIXES, readable_suffixes, remedy
from lcm.data.records import Record, stamp_of
from lcm.data.sources.base import Source
from lcm.data.sources.metadata import METADATA_NAMES, Metadata, read_metadata
from lcm.data.sources.walk import Found, is_picture, lexical, real_path, walk
from lcm.system.paths import is_folder
from lcm.system.text import plain

LIKE_CAPTIONS = (
    *(".json", ".jsonl", ".json1", ".ndjson", ".csv", ".tsv", ".parquet", ".xlsx", ".ods"),
    *(".yaml", ".yml", ".toml", ".xml", ".cap", ".captions", ".tags"),
)
"""Ends of names of files that may be meant for captions, and are not read."""


def read_folder(where: str, config: DataConfig, dropped: Counter[str]) -> Iterator[Record]:
    """Images below a folder in path order, captions from metadata files and, where those have none,
    from the files of captions beside them.
    """
    folder = Path(where)
    if not is_folder(folder):
        raise FileNotFoundError(
            f"train_data_dir: {plain(folder, 500)} is not a folder; pass the folder that holds the "
            "training images"
        )
    found = walk(folder, dropped)
    suffixes = readable_suffixes()
    images = [path for path in found.files if path.suffix.lower() in suffixes]
    for path in found.files:
        if path.suffix.lower() in OTHER_SUFFIXES and path.suffix.lower() not in suffixes:
            leave_out(dropped, found_name(found, path), OTHER_FORMAT, remedy(path.suffix.lower()))
    if not images:
        raise ValueError(
            f"train_data_dir: {folder} holds no images ({', '.join(suffixes)}){example(dropped)}"
        )
    metadata = read_metadata(found, images, config.caption_column, dropped)
    beside = Beside(found, images, metadata, dropped)
    for path in images:
        if texts := beside.captions(path):
            yield Record(
                found_name(found, path),
                texts,
                partial(Path, path),
                path.stat().st_size,
                stamp_of(path),
            )


def found_name(found: Found, path: Path) -> str:
    return path.relative_to(found.root).as_posix()


class Beside:
    """The captions of images: those of the metadata or of a file of the same name beside each."""

    def __init__(
        self, found: Found, images: Sequence[Path], metadata: Metadata, dropped: Counter[str]
    ) -> None:
        self.found, self.metadata, self.dropped = found, metadata, dropped
        self.texts: dict[tuple[Path, str], list[Path]] = {}
        self.others: dict[tuple[Path, str], Path] = {}
        pictured = {(path.parent, path.stem) for path in found.files if is_picture(path)}
        for path in found.files:
            if is_picture(path) or path.name.lower() in METADATA_NAMES:
                continue
            if path.suffix.lower() in CAPTION_SUFFIXES:
                self.texts.setdefault((path.parent, path.stem), []).append(path)
                if (path.parent, path.stem) in pictured:
                    continue
                if lexical(path) not in metadata.rows:
                    leave_out(dropped, found_name(found, path), NO_IMAGE)
            self.keep_apart(path)

    def keep_apart(self, path: Path) -> None:
        """Remembers a file that is not read by every name before a dot of its own."""
        parts = path.name.split(".")
        for count in range(1, len(parts)):
            self.others.setdefault((path.parent, ".".join(parts[:count])), path)
        if path.suffix.lower() in LIKE_CAPTIONS:
            hint(self.dropped, f"{found_name(self.found, path)} is not read")

    def captions(self, image: Path) -> tuple[str, ...]:
        """The captions of an image; none where it has none, or where they cannot be read, and it is
        left out.
        """
        name, place = found_name(self.found, image), lexical(image)
        if place in self.metadata.wrong:
            leave_out(self.dropped, name, BAD_TEXT, self.metadata.wrong[place])
            return ()
        if texts := self.metadata.captions.get(place, ()):
            return texts
        files = self.texts.get((image.parent, image.stem), [])
        for suffix in CAPTION_SUFFIXES:
            of_kind = [path for path in files if path.suffix.lower() == suffix]
            if not of_kind:
                continue
            reason, why = self.refusal(image, of_kind)
            if reason:
                leave_out(self.dropped, name, reason, why)
                return ()
            try:
                texts = read_captions(of_kind[0])
            except (BadTextError, OSError) as error:
                leave_out(self.dropped, name, BAD_TEXT, f"{of_kind[0].name} {error}")
                return ()
            if texts:
                return texts
        other = self.others.get((image.parent, image.stem))
        why = f"{other.name} beside it is not read" if other else ""
        leave_out(self.dropped, name, NO_CAPTION, why)
        if other:
            hint(self.dropped, f"{found_name(self.found, other)} is not read")
        return ()

    def refusal(self, image: Path, texts: Sequence[Path]) -> tuple[str, str]:
        """The reason for not reading the files of captions of one kind, and what lies behind it;
        twice nothing where they may be read.
        """
        if len(texts) > 1:
            return NAMED_TWICE, " and ".join(path.name for path in texts)
        if not self.found.may_read(texts[0], [image]):
            return LINKED_OUT, f"{texts[0].name} leads to {real_path(texts[0])}; copy it here"
        return "", ""


FOLDER = Source(
    read_folder,
    add_captions=(
        "add a metadata.jsonl with file_name and {} fields, a metadata.csv with these columns, or "
        "a .txt or .caption of the same name beside every image"
    ),
)
