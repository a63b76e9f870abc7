"""A folder of images, captions in metadata files or beside each image."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

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

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")


def read_folder(where: str, config: DataConfig, dropped: Counter[str]) -> Iterator[Record]:
    """Images below a folder in path order, captions from metadata files and, where those have none,
    .txt files.
    """
    folder = Path(where)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"train_data_dir: {folder} is not a folder; pass the folder that holds the "
            "training images"
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise ValueError(f"train_data_dir: {folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    captions = read_metadata(folder, config.caption_column)
    dropped.update("listed in the metadata but missing" for path in captions if not path.is_file())
    listed = {path for path in captions if path.is_file()} - {lexical(path) for path in images}
    dropped.update(
        OTHER_FORMAT
        for path in files
        if path.suffix.lower() in OTHER_SUFFIXES or lexical(path) in listed
    )
    for path in images:
        texts = captions.get(lexical(path)) or read_sidecar(path.with_suffix(".txt"))
        if texts:
            size = path.stat().st_size
            yield Record(
                path.relative_to(folder).as_posix(),
                texts,
                partial(Path, path),
                size,
                stamp_of(path),
            )
        else:
            dropped[NO_CAPTION] += 1


def read_sidecar(path: Path) -> tuple[str, ...]:
    return (
        caption_lines(path.read_text(encoding="utf-8-sig", errors="replace"))
        if path.is_file()
        else ()
    )


def read_metadata(folder: Path, caption_column: str) -> dict[Path, tuple[str, ...]]:
    """File -> captions from every metadata.jsonl and metadata.csv below `folder`, file names
    relative to each.

    Several rows of one file add up: each different caption is kept once more.
    """
    captions: dict[Path, tuple[str, ...]] = {}
    for metadata in sorted(path for name in METADATA_NAMES for path in folder.rglob(name)):
        try:
            rows = list(read_rows(metadata))
        except UnicodeDecodeError as error:
            raise ValueError(f"{metadata} is not UTF-8: {error}; save it as UTF-8") from error
        except csv.Error as error:
            raise ValueError(f"{metadata} is not valid CSV: {error}") from error
        columns = sorted({column for row in rows for column in row})
        if rows and ("file_name" not in columns or caption_column not in columns):
            raise ValueError(
                f"{metadata} has the columns {', '.join(columns)} but needs file_name and "
                f"{caption_column}; pass --caption_column to name another caption column"
            )
        for row in rows:
            path = lexical(metadata.parent / str(row.get("file_name", "")))
            if not path.is_relative_to(lexical(folder)):
                raise ValueError(
                    f"{metadata}: file_name {row['file_name']!r} points outside {folder}; keep "
                    "images inside it"
                )
            earlier = captions.get(path, ())
            captions[path] = earlier + tuple(
                text for text in as_captions(row.get(caption_column)) if text not in earlier
            )
    return captions


def lexical(path: Path) -> Path:
    """Absolute, without "..", links not followed: data folders full of links are common and stay
    usable.
    """
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps ".."


def read_rows(metadata: Path) -> Iterator[dict[str, Any]]:
    with metadata.open(encoding="utf-8-sig", newline="") as file:
        if metadata.suffix == ".csv":
            reader = csv.DictReader(file)
            for row in reader:
                if None in row:
                    raise ValueError(
                        f"{metadata}, line {reader.line_num} has too many fields; put captions "
                        "with commas in quotes"
                    )
                yield row
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"{metadata}, line {number} is not valid JSON: {error}"
                    ) from error
                if not isinstance(row, dict):
                    raise ValueError(
                        f"{metadata}, line {number} must be a JSON object with file_name and a "
                        "caption"
                    )
                yield row


FOLDER = Source(
    read_folder,
    add_captions=(
        "add a metadata.jsonl with file_name and {} fields, a metadata.csv with these columns, or "
        "a .txt of the same name beside every image"
    ),
)
