"""Every sample that is met is kept, or left out by its name: in every source."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from pathlib import Path

import datasets
import pytest

from lcm.data.config import DataConfig
from lcm.data.dropped import LISTED, Dropped, leave_out, pass_over
from lcm.data.load import load_data
from lcm.data.loaded import LoadedData
from lcm.data.report import make_report, write_report
from lcm.data.sources import SOURCES
from tests.support.pictures import RED, encoded, plain
from tests.support.samples import THREE, Example, write_members
from tests.support.sources import WITH_IMAGES, config_of
from tests.support.tars import load_tar

datasets.disable_progress_bars()

PICTURE = THREE[0].data
MET = [
    Example("0.png", PICTURE, ("good",)),
    Example("1.png", PICTURE, ()),
    Example("2.png", b"no picture", ("broken",)),
    Example("3.png", PICTURE, ("two", "captions")),
    Example("4.png", PICTURE, (" ",)),
    Example("5.png", encoded(plain(RED), "GIF"), ("moving",)),
    Example("6.png", PICTURE, ("half \ud83d",)),
]
"""Samples, kept and not, that every source can hold."""

WRITABLE = {"prompts_file": MET[:5], "dataset_name": MET[:6], "parquet_files": MET[:6]}
"""Those without half a surrogate pair, which neither Arrow nor a text file has."""


def listed(data: LoadedData) -> list[str]:
    assert isinstance(data.dropped, Dropped)
    return [one.file for one in data.dropped.left_out()]


@pytest.mark.parametrize("flag", SOURCES)
def test_what_was_met_was_kept_or_left_out_by_name(tmp_path: Path, flag: str) -> None:
    met = WRITABLE.get(flag, MET)
    data = load_data(config_of(flag, tmp_path, met))
    names = listed(data)
    assert len(data.records) + len(names) == len(met)
    assert sum(data.dropped.values()) == len(names) == len(set(names))
    assert not {record.key for record in data.records} & set(names)


@pytest.mark.parametrize("flag", SOURCES)
def test_the_report_lists_what_was_left_out_with_its_reason(tmp_path: Path, flag: str) -> None:
    data = load_data(config_of(flag, tmp_path / "data", WRITABLE.get(flag, MET)))
    write_report(tmp_path, make_report(data, 16), data.records)
    report = json.loads((tmp_path / "data_report.json").read_text())
    assert Counter(one["reason"] for one in report["left_out"]) == report["dropped"]
    assert [one["file"] for one in report["left_out"]] == listed(data)


@pytest.mark.parametrize("flag", WITH_IMAGES)
def test_the_log_names_the_first_few_of_each_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, flag: str
) -> None:
    caplog.set_level(logging.INFO)
    silent = [Example(f"{i}.png", PICTURE, ()) for i in range(9)]
    data = load_data(config_of(flag, tmp_path, [*silent, Example("9.png", PICTURE, ("x",))]))
    (line,) = [
        record.getMessage()
        for record in caplog.records
        if record.getMessage().strip().startswith("without a caption: ")
    ]
    names = listed(data)
    assert all(name in line for name in names[:5]) and line.endswith(" and 4 more")
    assert not any(name in line for name in names[5:])


def test_a_folder_counts_what_is_no_image_by_name(tmp_path: Path) -> None:
    files = {
        "good.png": PICTURE,
        "good.txt": b"good",
        "silent.png": PICTURE,
        "silent.json": b"{}",
        "photo.HEIC": b"",
        "photo.txt": b"belongs to it",
        "movie.gif": b"",
        "lonely.txt": b"no picture",
        "lonely.caption": b"no picture",
        "twice.png": PICTURE,
        "twice.txt": b"one",
        "twice.TXT": b"two",
        "read me.md": b"nobody takes it for a sample",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    data = load_data(DataConfig(train_data_dir=str(tmp_path)))
    reasons = {one.file: one.reason for one in data.dropped.left_out()}
    other = "in another format than PNG, JPEG, WEBP, BMP, TIFF"
    assert reasons == {
        "silent.png": "without a caption",
        "photo.HEIC": other,
        "movie.gif": other,
        "lonely.txt": "without an image",
        "lonely.caption": "without an image",
        "twice.png": "with two files of captions of one name",
    }
    why = {one.file: one.why for one in data.dropped.left_out()}
    assert "silent.json" in why["silent.png"] and "pip install pillow-heif" in why["photo.HEIC"]


def test_a_tar_counts_what_is_no_sample_by_name(tmp_path: Path) -> None:
    files = {
        "good.png": PICTURE,
        "good.caption": b"good",
        "lonely.txt": b"x",
        "silent.png": PICTURE,
        "silent.png.txt": b"not read",
        "movie.gif": b"",
        "both.png": PICTURE,
        "both.jpg": PICTURE,
        "._good.png": PICTURE,
        ".cache/good.png": PICTURE,
        "LICENSE": b"",
    }
    data = load_tar(write_members(tmp_path / "x.tar", list(files.items())))
    assert [record.key for record in data.records] == ["x.tar/good"]
    assert {one.file: one.reason for one in data.dropped.left_out()} == {
        "x.tar/lonely": "without an image",
        "x.tar/silent": "without a caption",
        "x.tar/movie": "in another format than PNG, JPEG, WEBP, BMP, TIFF",
        "x.tar/both": "with several images",
        "x.tar/._good.png": "hidden",
        "x.tar/.cache/good.png": "hidden",
    }
    assert any("png.txt is not read" in one.why for one in data.dropped.left_out())


def test_so_many_of_each_reason_are_listed_and_all_are_counted() -> None:
    dropped = Dropped()
    for number in range(LISTED + 5):
        leave_out(dropped, f"{number}.png", "without a caption")
        pass_over(dropped, f".{number}.png")
    leave_out(dropped, "x" * 100_000, "unreadable", "y" * 100_000)
    assert dropped == {"without a caption": LISTED + 5, "unreadable": 1}
    assert dropped.hidden == LISTED + 5
    assert Counter(one.reason for one in dropped.left_out()) == {
        "without a caption": LISTED,
        "hidden": LISTED,
        "unreadable": 1,
    }
    assert all(len(line) < 1000 for line in dropped.lines())
    assert [line.endswith(f"and {LISTED} more") for line in dropped.lines()] == [True, False, True]


def test_a_plain_counter_of_a_plugin_is_enough() -> None:
    dropped: Counter[str] = Counter()
    leave_out(dropped, "a.png", "unreadable")
    pass_over(dropped, ".a.png")
    assert dropped == {"unreadable": 1}


def test_files_of_a_size_that_none_has_are_not_read(tmp_path: Path) -> None:
    """They have holes, so that they take no room, and would take all of the memory."""
    sizes = {"a.png": 1 << 40, "b.txt": 1 << 40}
    for name in ("a", "b", "good"):
        (tmp_path / f"{name}.png").write_bytes(PICTURE)
        (tmp_path / f"{name}.txt").write_text("x")
    for name, size in sizes.items():
        os.truncate(tmp_path / name, size)
    data = load_data(DataConfig(train_data_dir=str(tmp_path)))
    assert [record.key for record in data.records] == ["good.png"]
    assert {one.file: one.reason for one in data.dropped.left_out()} == {
        "a.png": "too large to decode safely",
        "b.png": "with captions that are not UTF-8",
    }
    for flag, name in (("train_data_dir", "metadata.jsonl"), ("prompts_file", "prompts.txt")):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 1 << 40)
        where = tmp_path if flag == "train_data_dir" else tmp_path / name
        with pytest.raises(ValueError, match=rf"{name} has more than 1024 MiB"):
            load_data(DataConfig(**{flag: str(where)}))
