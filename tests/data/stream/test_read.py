"""Streams are read once, and whatever stops them costs no row."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lcm.data.load import load_data
from lcm.data.sources.tables import content_of
from tests.support.listed import (
    COUNT,
    Kept,
    config_of,
    content,
    load_streamed,
    pictures_of,
    write_tables,
)
from tests.support.teams import at_once


def test_a_second_run_opens_nothing(where: Path) -> None:
    first = load_streamed(where)
    shutil.rmtree(where)
    again = Kept()
    assert content(load_streamed(where, again)) == content(first) and not again.seen


def test_fewer_samples_are_the_first_of_more_and_no_row_is_read_twice_or_in_vain(
    where: Path,
) -> None:
    examples = [
        dataclasses.replace(e, data=b"broken") if i in (1, 4, 5) else e
        for i, e in enumerate(pictures_of())
    ]
    write_tables(where, examples)
    usable = [f"{where}[{i}]" for i in (0, 2, 3, 6, 7, 8, 9)]
    for before, count in ((0, 1), (1, 2), (2, 5), (5, 6), (6, 99)):
        sink = Kept()
        data = load_streamed(where, sink, max_train_samples=count)
        assert [record.key for record in data.records] == usable[:count]
        assert list(sink.seen) == usable[before:count]
        assert data.dropped["unreadable"] == {1: 0, 2: 1}.get(count, 3)
        assert content(data) == content(load_data(config_of(where, max_train_samples=count)))
    assert [record.key for record in load_streamed(where, max_train_samples=2).records] == usable[
        :2
    ]
    assert [record.key for record in load_streamed(where).records] == usable


@pytest.mark.parametrize("fail_at", [0, 3, 5, 9])
def test_a_killed_reading_goes_on_where_it_was(where: Path, fail_at: int) -> None:
    first, second = Kept(fail_at), Kept()
    with pytest.raises(KeyboardInterrupt):
        load_streamed(where, first)
    data = load_streamed(where, second)
    listed = fail_at // 3 * 3  # three at a time
    assert list(second.seen) == [f"{where}[{i}]" for i in range(listed, COUNT)]
    assert content(data) == content(load_data(config_of(where)))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("limit", [None, 5])
def test_processes_share_the_pictures_and_all_know_all(
    where: Path, size: int, limit: int | None
) -> None:
    write_tables(
        where,
        [
            dataclasses.replace(e, data=b"broken") if i in (1, 2) else e
            for i, e in enumerate(pictures_of())
        ],
    )
    sinks = [Kept() for _ in range(size)]
    loaded = at_once(
        lambda team: load_streamed(where, sinks[team.rank], team, max_train_samples=limit), size
    )
    expected = content(load_data(config_of(where, max_train_samples=limit)))
    assert all(content(data) == expected for data in loaded)
    seen = [key for sink in sinks for key in sink.seen]
    assert sorted(seen) == sorted(record.key for record in loaded[0].records)
    (path,) = (where.parent / "notes").iterdir()  # one process has written for all
    lines = [json.loads(line)[1:] for line in path.read_text().splitlines()]
    numbers = range(7 if limit else COUNT)
    assert [number for number, _ in lines if number != "shard"] == [
        "stream",
        *numbers,
        *([] if limit else [COUNT]),
    ]
    assert [start for number, start in lines if number == "shard"] == [[0, 0], [1, 5]]


def test_a_stream_that_breaks_keeps_what_was_read(where: Path) -> None:
    path = where / "b.parquet"
    whole, time = path.read_bytes(), path.stat().st_mtime_ns
    path.write_bytes(whole[: len(whole) // 2])
    os.utime(path, ns=(time, time))
    with pytest.raises(
        ConnectionError, match=r"rows could not be read from row 5 on \(.*the same command goes on"
    ):
        load_streamed(where)
    path.write_bytes(whole)
    os.utime(path, ns=(time, time))
    sink = Kept()
    assert content(load_streamed(where, sink)) == content(load_data(config_of(where)))
    assert list(sink.seen) == [f"{where}[{i}]" for i in range(3, COUNT)]


def test_a_picture_that_the_network_withholds_is_not_taken_for_a_broken_one(
    where: Path, monkeypatch: Any
) -> None:
    def withhold(cell: Any, *rest: Any) -> Any:
        if cell["bytes"] == pictures_of()[4].data:
            raise ConnectionError("gone")
        return content_of(cell, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("lcm.data.stream.rows.content_of", withhold)
        with pytest.raises(
            ConnectionError, match=r"rows could not be read .*gone.*the same command goes on"
        ):
            load_streamed(where)
    assert content(load_streamed(where)) == content(load_data(config_of(where)))


def test_files_on_the_hub_are_fetched_and_its_failures_told_from_missing_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hub(address: str, _mode: str) -> io.BytesIO:
        if "absent" in address:
            raise FileNotFoundError(address)
        if "slow" in address:
            raise TimeoutError("https://cdn.example.com/a?token=1 timed out")
        return io.BytesIO(address.encode())

    monkeypatch.setattr("datasets.utils.file_utils.xopen", hub)
    base = "hf://datasets/some/one@abc"
    found = content_of({"bytes": None, "path": f"{base}/a.png"}, (), "some/one")
    assert isinstance(found, io.BytesIO) and found.getvalue() == f"{base}/a.png".encode()
    with pytest.raises(FileNotFoundError):
        content_of({"bytes": None, "path": f"{base}/absent.png"}, (), "some/one")
    with pytest.raises(
        ConnectionError, match=r"slow\.png: TimeoutError: https://cdn\.example\.com/a timed out$"
    ):
        content_of({"bytes": None, "path": f"{base}/slow.png"}, (), "some/one")


@pytest.mark.parametrize("already", [4, 5, 6, 8])
def test_files_that_were_read_are_not_opened_again(where: Path, already: int) -> None:
    whole = content(load_data(config_of(where)))
    load_streamed(where, max_train_samples=already)
    path, sink = where / "a.parquet", Kept()
    time = path.stat().st_mtime_ns
    pages = bytearray(path.read_bytes())
    pages[4 : len(pages) // 2] = bytes(len(pages) // 2 - 4)  # its schema, at the end, is looked at
    path.write_bytes(pages)
    os.utime(path, ns=(time, time))
    if already > 5:
        assert content(load_streamed(where, sink)) == whole
        assert list(sink.seen) == [f"{where}[{i}]" for i in range(already, COUNT)]
    else:  # nobody knows yet that the file ends there
        with pytest.raises(ConnectionError, match="could not be read from row 0 on"):
            load_streamed(where)


def test_what_is_left_out_of_a_stream_has_the_names_that_it_has_of_a_table(where: Path) -> None:
    changes: dict[int, Any] = {1: {"data": b"broken"}, 4: {"captions": ()}}
    changes[7] = {"captions": ("a\0",)}
    write_tables(
        where,
        [dataclasses.replace(e, **changes.get(i, {})) for i, e in enumerate(pictures_of())],
    )
    expected = load_data(config_of(where)).dropped.left_out()
    assert {one.file for one in expected} == {f"{where}[{i}]" for i in changes}
    for _ in range(2):  # read, and as it was listed
        assert load_streamed(where).dropped.left_out() == expected
