"""What is listed is not read again while it is what it was."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import datasets
import pytest

from lcm.data.stream.read import load_stream
from lcm.system.processes import ALONE
from tests.support.listed import (
    COUNT,
    Kept,
    config_of,
    content,
    load_streamed,
    pictures_of,
    write_tables,
)


class OnTheHub:
    """Stands for the builder of a data set on the hub, whose branch moves between two calls."""

    def __init__(self, where: Path) -> None:
        self.real, self.where = datasets.load_dataset_builder, where
        self.head, self.asked = "a" * 40, []

    def __call__(
        self, name: str, config_name: Any = None, *, revision: str | None = None, **options: Any
    ) -> Any:
        assert name == "some/one"
        self.asked.append(revision)
        builder = self.real(str(self.where), config_name, **options)
        builder.base_path = f"hf://datasets/{name}@{revision or self.head}"
        builder.hash = revision or self.head
        return builder


def test_a_damaged_listing_is_trusted_up_to_the_damage(where: Path) -> None:
    first = load_streamed(where)
    (path,) = (where.parent / "notes").iterdir()
    whole = path.read_text()
    for damaged in (
        whole.replace("picture 6", "picture 7"),
        whole[: whole.index("picture 6")],
        whole.replace("[6]", "[6"),
    ):
        path.write_text(damaged)
        sink = Kept()
        assert content(load_streamed(where, sink)) == content(first)
        if damaged != whole:
            assert list(sink.seen) == [f"{where}[{i}]" for i in range(6, COUNT)]
        for other in (where.parent / "notes").iterdir():
            if other != path:
                other.unlink()


def test_a_local_folder_that_has_changed_is_read_anew(where: Path) -> None:
    load_streamed(where)
    write_tables(
        where, [dataclasses.replace(example, captions=("new",)) for example in pictures_of()]
    )
    # in case both were written within one tick of the clock
    os.utime(where / "a.parquet", (2e9, 2e9))
    sink = Kept()
    assert {record.captions for record in load_streamed(where, sink).records} == {("new",)}
    assert len(sink.seen) == COUNT


def test_other_columns_have_a_listing_of_their_own(where: Path) -> None:
    load_streamed(where)
    for name in "ab":
        table = datasets.Dataset.from_parquet(str(where / f"{name}.parquet"))
        table.add_column("other", ["other"] * len(table)).to_parquet(where / f"{name}.parquet")
    assert {record.captions for record in load_streamed(where, caption_column="other").records} == {
        ("other",)
    }


def test_a_listing_stays_with_the_commit_that_it_began_with(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, notes = OnTheHub(where), where.parent / "notes"
    notes.mkdir()
    monkeypatch.setattr("datasets.load_dataset_builder", hub)
    config = dataclasses.replace(config_of(where), dataset_name="some/one")
    load_stream(config, 4, ALONE, notes, Kept())
    hub.head = "b" * 40
    data = load_stream(config, None, ALONE, notes, Kept())
    assert hub.asked == [None, "a" * 40] and len(data.records) == COUNT
    load_stream(config, None, ALONE, notes, Kept())
    assert len(hub.asked) == 2
