"""Journals: what is read is what was written, whatever a kill or a bad disk made of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lcm.data.journal import append_lines, read_lines, write_lines
from lcm.data.pictures import Picture, survey
from lcm.data.records import Record
from lcm.system.processes import Team

LINES: list[list[Any]] = [["a", 1, "größer"], ["b", [2, {"c": None}]], []]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_lines_are_read_as_they_were_written(journal: Path) -> None:
    append_lines(journal, LINES[:1])
    with journal.open("a") as file:
        write_lines(file, LINES[1:])
        assert list(read_lines(journal)) == LINES  # before it is closed


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_a_damaged_or_torn_line_counts_as_not_written(journal: Path, place: int) -> None:
    append_lines(journal, LINES)
    whole = journal.read_bytes()
    first = whole.index(b"\n")
    damaged = bytearray(whole)
    damaged[place % first] ^= 1
    journal.write_bytes(damaged)
    assert list(read_lines(journal)) == LINES[1:]
    journal.write_bytes(whole[: first + 1 + place % 10])
    assert list(read_lines(journal)) == LINES[:1]


def test_pictures_that_the_version_before_wrote_down_are_not_read_again(tmp_path: Path) -> None:
    """Its lines had no check."""
    picture = Picture("0" * 64, 20, 16)
    lines = [["stamp", *dataclasses.astuple(picture)], ["torn", "0" * 64, 20]]
    (tmp_path / "pictures-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = [Record("key", ("text",), stamp="stamp"), Record("other", ("text",), stamp="torn")]
    assert survey(records[:1], Team(), tmp_path) == [picture]
    _, other = survey(records, Team(), tmp_path)
    assert other.reason == "unreadable"
    assert survey(records, Team(), tmp_path) == [picture, other]
