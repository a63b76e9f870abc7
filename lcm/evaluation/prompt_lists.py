"""Lists of prompts: ours, and those of others as files of text, tables or JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcm.data.captions import BadTextError, check_text, lines_of, read_text
from lcm.system.json_input import parse
from lcm.system.paths import is_endless, is_regular
from lcm.system.registry import closest
from lcm.system.text import SHOWN, plain
from lcm.system.words import quoted

BUILT_IN = Path(__file__).parent / "prompts" / "prompts.txt"
"""200 prompts of our own: people, animals, objects, places, writing, styles, long ones."""
COLUMNS = ("prompt", "caption", "text", "description")
"""What the prompt is called in tables and JSON, in any letters, the first that is there."""
LONGEST = 10_000
"""Characters of a prompt, of which 77 tokens are drawn, or a few hundred."""
FIX = "write one prompt a line, or a table with a column named prompt"


def read(path: Path | None, column: str | None = None, most: int | None = None) -> list[str]:
    """The prompts of a file, or ours, each once, in their order; of more than `most` these many,
    evenly spread, as lists are often sorted by kinds.

    A .csv or .tsv has a column of prompts, .jsonl and .json have a field of that name: `column`, or
    one of COLUMNS. Any other file has a prompt on every line. Raises FileNotFoundError, or
    ValueError naming the file and the fix.
    """
    prompts = [prompt for prompt in dict.fromkeys(found_in(path or BUILT_IN, column)) if prompt]
    if not prompts:
        raise ValueError(f"prompts: {path} holds no prompt; {FIX}")
    for prompt in prompts:
        if len(prompt) > LONGEST:
            raise ValueError(
                f"prompts: {path} has a prompt of {len(prompt)} characters, which begins with "
                f"'{plain(prompt[:SHOWN])}'; no model reads more than {LONGEST}"
            )
    if most is None or most >= len(prompts):
        return prompts
    return [prompts[i * len(prompts) // most] for i in range(most)]


def found_in(path: Path, column: str | None) -> list[str]:
    """All of the file, without the white space around."""
    if is_endless(path):
        raise ValueError(f"prompts: {path} is a pipe or a device; write it to a file first")
    if not is_regular(path):
        raise FileNotFoundError(f"prompts: there is no file {path}; {FIX}")
    readers = {".csv": table, ".tsv": table, ".jsonl": json_lines, ".json": json_file}
    reader = readers.get(path.suffix.lower())
    if reader is None and column is not None:
        raise ValueError(
            f"prompt_column: {path} has no columns, a prompt is a line; leave it out, or pass a "
            ".csv, .tsv, .jsonl or .json file"
        )
    try:
        text = read_text(path)
    except ValueError as error:
        raise ValueError(f"prompts: {error}") from error
    if reader is None:
        return [line.strip() for line in lines_of(text)]
    return [stripped(value, path) for value in reader(text, path, column)]


def stripped(value: Any, path: Path) -> str:
    """A cell as a prompt. Raises ValueError for what is no text."""
    if not isinstance(value, str):
        raise ValueError(f"prompts: {path} has {quoted(value)} in the place of a prompt; {FIX}")
    try:
        check_text(value)
    except BadTextError as error:
        raise ValueError(f"prompts: {path}, {quoted(value)}: {error}") from error
    return " ".join(value.split())


def column_of(names: Sequence[str], path: Path, column: str | None) -> str:
    """The name of the column of prompts. Raises ValueError that lists what there is."""
    known = ", ".join(plain(name, SHOWN) for name in names[:20])
    if column is not None:
        if column in names:
            return column
        near = closest(column, names)
        raise ValueError(f"prompt_column: {path} has no {quoted(column)}; it has {known}.{near}")
    lower = {name.lower().strip(): name for name in reversed(names)}
    for usual in COLUMNS:
        if usual in lower:
            return lower[usual]
    raise ValueError(f"prompts: {path} has {known}; say which is the prompt with --prompt_column")


def table(text: str, path: Path, column: str | None) -> list[Any]:
    """The column of a table with a head: tabs between cells of a .tsv, else commas, where quotes
    may hold line breaks.
    """
    is_tabs = path.suffix.lower() == ".tsv"
    options: dict[str, Any] = (
        {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tabs else {"delimiter": ","}
    )
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), **options))
    except csv.Error as error:
        raise ValueError(f"prompts: {path} is no table ({error}); {FIX}") from error
    if not rows:
        return []
    name = column_of([str(each) for each in rows[0] if each is not None], path, column)
    return [row.get(name) or "" for row in rows]


def json_lines(text: str, path: Path, column: str | None) -> list[Any]:
    """The field of every line, each of which is an object."""
    lines = [(number, line) for number, line in enumerate(lines_of(text), 1) if line.strip()]
    rows = [parse(line, f"prompts: {path}, line {number}", FIX) for number, line in lines]
    return fields_of(rows, path, column)


def json_file(text: str, path: Path, column: str | None) -> list[Any]:
    """A list of texts or of objects, or an object of objects, as MJHQ has; COCO's captions lie in
    its annotations.
    """
    content = parse(text, f"prompts: {path}", FIX)
    if isinstance(content, dict):
        inside = content.get("annotations")
        content = inside if isinstance(inside, list) else list(content.values())
    if not isinstance(content, list):
        raise ValueError(f"prompts: {path} holds no list; {FIX}")
    return (
        content
        if all(isinstance(each, str) for each in content)
        else fields_of(content, path, column)
    )


def fields_of(rows: Sequence[Any], path: Path, column: str | None) -> list[Any]:
    """One field of every row. Raises ValueError for a row that is no object, or lacks it."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"prompts: {path}, entry {number} is {quoted(row)}, no object; {FIX}")
    if not rows:
        return []
    name = column_of(list(rows[0]), path, column)
    return [row.get(name) for row in rows]
