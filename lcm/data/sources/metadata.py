"""Metadata files of a folder of images: which file has which captions."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcm.data.captions import MOST_BYTES, BadTextError, as_captions, lines_of, read_text
from lcm.data.dropped import (
    LINKED_OUT,
    MISSING,
    NOT_MET,
    OTHER_FORMAT,
    hint,
    leave_out,
)
from lcm.data.sources.walk import Found, is_picture, lexical, real_path
from lcm.system.json_input import as_object, parse
from lcm.system.paths import is_regular
from lcm.system.text import plain

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
"""In lower case."""
FIX = "write one flat object with file_name and a caption"


@dataclass
class Metadata:
    """What the metadata say of files, each an absolute path without ".." and links not followed:
    their captions, why these cannot be read, and the row that named each first.
    """

    captions: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    wrong: dict[Path, str] = field(default_factory=dict)
    rows: dict[Path, tuple[Path, int, str]] = field(default_factory=dict)


def read_metadata(
    found: Found, pictures: Sequence[Path], caption_column: str, dropped: Counter[str]
) -> Metadata:
    """Captions from every metadata.jsonl and metadata.csv that was found, file names relative to
    each.

    Several rows of one file add up: each different caption is kept once more. What is named there
    and is no picture of the data is left out by name. Raises ValueError for a file that cannot be
    read.
    """
    metadata = Metadata()
    known = {lexical(path) for path in found.files}
    for path in found.files:
        if path.name.lower() not in METADATA_NAMES:
            continue
        if not found.may_read(path, pictures):
            name = path.relative_to(found.root).as_posix()
            leave_out(dropped, name, LINKED_OUT, f"it leads to {real_path(path)}; copy it here")
            continue
        add_rows(metadata, found, path, caption_column, known)
    leave_out_others(metadata, found, known, {lexical(path) for path in pictures}, dropped)
    return metadata


def add_rows(
    metadata: Metadata, found: Found, path: Path, caption_column: str, known: set[Path]
) -> None:
    """Adds what one file says. Raises ValueError, naming it, for one that cannot be read."""
    rows = list(read_rows(path))
    columns = sorted({column for _, row in rows for column in row})
    if rows and ("file_name" not in columns or caption_column not in columns):
        raise ValueError(
            f"{path} has the columns {plain(', '.join(columns), 200)} but needs file_name and "
            f"{caption_column}; pass --caption_column to name another caption column"
        )
    root = lexical(found.root)
    for number, row in rows:
        name = row.get("file_name")
        file = named_file(path.parent, str(name or ""), known)
        if file not in known and (same := found.by_real_path.get(real_path(file))):
            file = lexical(same)
        if not file.is_relative_to(root):
            raise ValueError(
                f"{path}: file_name {plain(name, 200)!r} points outside {found.root}; keep "
                "images inside it"
            )
        metadata.rows.setdefault(file, (path, number, str(name)))
        try:
            texts = as_captions(row.get(caption_column))
        except BadTextError as error:
            metadata.wrong[file] = f"{path.name}, row {number} {error}"
            continue
        earlier = metadata.captions.get(file, ())
        metadata.captions[file] = earlier + tuple(text for text in texts if text not in earlier)


def named_file(folder: Path, name: str, known: set[Path]) -> Path:
    """The file that a row means, from the folder of its metadata: with the separators of Windows
    where only they lead to one.
    """
    file = lexical(folder / name)
    if file not in known and "\\" in name:
        other = lexical(folder / name.replace("\\", "/"))
        return other if other in known else file
    return file


def leave_out_others(
    metadata: Metadata, found: Found, known: set[Path], pictures: set[Path], dropped: Counter[str]
) -> None:
    """Leaves out, by name, what rows name and is no picture that was found."""
    root = lexical(found.root)
    first = ""
    for file, (path, number, name) in metadata.rows.items():
        if file in pictures or (file in known and is_picture(file)):  # read, or left out already
            continue
        shown = file.relative_to(root).as_posix()
        where = f"{path}, row {number}: file_name {plain(name, 100)!r}"
        looked = f"{where} is looked for at {plain(file, 200)}"
        if file in known:
            leave_out(dropped, shown, OTHER_FORMAT)
        elif is_regular(file):
            leave_out(dropped, shown, NOT_MET, where)
        else:
            leave_out(dropped, shown, MISSING, looked)
            first = first or looked
    if first:
        hint(dropped, f"{first}, where there is nothing")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of every row that is not blank. Raises ValueError that names the file and the
    line.
    """
    text = read_text(path)
    if path.suffix.lower() == ".csv":
        yield from csv_rows(path, text)
        return
    for number, line in enumerate(lines_of(text), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield number, as_object(parse(line, where, FIX, constants=True), where, FIX)


def csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a table whose first line names the columns. Raises ValueError for what is none."""
    header = text.lstrip("\r\n").partition("\n")[0]
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if separator in header and "," not in header:
            raise ValueError(
                f"{path} is separated by {name}, and commas are needed; save it with commas, and "
                "captions that have commas in quotes"
            )
    csv.field_size_limit(MOST_BYTES)  # as of any other caption; it is the same for all readers
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for number, row in enumerate(reader, 1):
            if None in row:
                raise ValueError(
                    f"{path}, line {reader.line_num} has too many fields; put captions with commas "
                    "in quotes"
                )
            yield number, row
    except csv.Error as error:
        raise ValueError(f"{path} is not valid CSV: {error}; save it as CSV again") from error
