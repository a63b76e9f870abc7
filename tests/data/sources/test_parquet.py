"""Parquet files as `datasets` writes them and as others do."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lcm.data.config import DataConfig
from lcm.data.load import load_data
from lcm.data.loaded import LoadedData
from tests.support.pictures import BLUE, GREEN, RED, encoded, plain
from tests.support.samples import STRUCT, TEXTS, THREE, write_rows

DATA = [example.data for example in THREE]


def load(tmp_path: Path, where: Path | str, **changes: Any) -> LoadedData:
    return load_data(
        DataConfig(parquet_files=str(where), cache_dir=str(tmp_path / "cache"), **changes)
    )


@pytest.mark.parametrize(
    "images",
    [
        pa.array(DATA, pa.binary()),
        pa.array(DATA, pa.large_binary()),
        pa.array([{"bytes": data, "path": "somewhere/else.png"} for data in DATA], STRUCT),
        pa.array([{"bytes": data} for data in DATA]),
    ],
    ids=["bytes", "large", "struct", "bytes alone"],
)
def test_images_as_others_store_them(tmp_path: Path, images: Any) -> None:
    data = load(tmp_path, write_rows(tmp_path / "x.parquet", images, other=[1, 2, 3]))
    assert [(record.key, record.captions) for record in data.records] == [
        (f"x.parquet[{i}]", (TEXTS[i],)) for i in range(3)
    ]
    assert [record.image().getpixel((0, 0)) for record in data.records] == [RED, GREEN, BLUE]


def test_folder_glob_and_braces_give_the_same_samples(tmp_path: Path) -> None:
    for name in ("b/1.parquet", "a/0.parquet"):
        write_rows(tmp_path / "rows" / name, pa.array(DATA, pa.binary()))
    keys = [f"{name}[{i}]" for name in ("a/0.parquet", "b/1.parquet") for i in range(3)]
    for where in ("rows", "rows/*/*.parquet", "rows/**/*.parquet", "rows/{a/0,b/1}.parquet"):
        assert [record.key for record in load(tmp_path, tmp_path / where).records] == keys, where


def test_empty_cells_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells = [
        {"bytes": DATA[0], "path": None},
        None,
        {"bytes": None, "path": None},
        {"bytes": b"", "path": None},
    ]
    path = write_rows(tmp_path / "x.parquet", pa.array(cells, STRUCT), ["good", "b", "c", "d"])
    caplog.set_level("WARNING")  # the summary, which names them too, is below it
    data = load(tmp_path, path)
    assert [record.captions for record in data.records] == [("good",)]
    assert data.dropped == {"unreadable": 3}
    assert caplog.text.count("its cell is empty") == 2


def test_rows_may_name_files_below_their_own_folder_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for name in ("rows/in/a.png", "outside.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(DATA[0])
    (tmp_path / "rows" / "link.png").symlink_to(tmp_path / "outside.png")
    names = [
        "in/a.png",
        str(tmp_path / "rows/in/a.png"),
        "../outside.png",
        str(tmp_path / "outside.png"),
        "link.png",
        "/etc/passwd",
    ]
    path = write_rows(tmp_path / "rows" / "x.parquet", pa.array(names), [str(i) for i in range(6)])
    data = load(tmp_path, path)
    assert [record.captions for record in data.records] == [("0",), ("1",)]
    assert data.dropped == {"unreadable": 4}
    assert caplog.text.count("is not below") == 4


@pytest.mark.parametrize("flag", ["image_column", "caption_column"])
def test_wrong_columns_list_the_columns_and_name_the_file(tmp_path: Path, flag: str) -> None:
    path = write_rows(tmp_path / "x.parquet", pa.array(DATA, pa.binary()))
    with pytest.raises(
        ValueError,
        match=rf"parquet_files: x\.parquet has no column 'absent'.*image, text; pass --{flag}",
    ):
        load(tmp_path, path, **{flag: "absent"})


def test_a_column_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"parquet_files: column 'image' of x\.parquet holds no images"
    ):
        load(tmp_path, write_rows(tmp_path / "x.parquet", [1, 2, 3]))


@pytest.mark.parametrize("damage", ["half", "text", "empty"])
def test_a_damaged_file_among_others_is_named(tmp_path: Path, damage: str) -> None:
    write_rows(tmp_path / "rows" / "a.parquet", pa.array(DATA, pa.binary()))
    bad = write_rows(tmp_path / "rows" / "b.parquet", pa.array(DATA, pa.binary()))
    bad.write_bytes(
        {
            "half": bad.read_bytes()[: bad.stat().st_size // 2],
            "text": b"no table" * 100,
            "empty": b"",
        }[damage]
    )
    with pytest.raises(
        ValueError,
        match=r"parquet_files: .*b\.parquet could not be read .*download it again or leave it out",
    ):
        load(tmp_path, tmp_path / "rows")


def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.parquet", pa.array(DATA, pa.binary()))
    assert load(tmp_path, path).records[0].image().getpixel((0, 0)) == RED
    write_rows(path, pa.array([encoded(plain(BLUE))] * 3, pa.binary()))
    os.utime(path, (2e9, 2e9))  # in case both were written within one tick of the clock
    assert load(tmp_path, path).records[0].image().getpixel((0, 0)) == BLUE


def test_a_file_without_rows_is_left_out_by_name(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "rows" / "a.parquet", pa.array([], pa.binary()), pa.array([], pa.string())
    )
    with pytest.raises(ValueError, match=r"no usable sample; dropped: 1 without rows.*a\.parquet"):
        load(tmp_path, tmp_path / "rows")
    write_rows(tmp_path / "rows" / "b.parquet", pa.array(DATA, pa.binary()))
    data = load(tmp_path, tmp_path / "rows")
    assert (len(data.records), data.dropped) == (3, {"without rows": 1})


def test_a_row_that_names_a_pipe_is_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "a.png").write_bytes(DATA[0])
    path = write_rows(tmp_path / "x.parquet", pa.array(["pipe.png", "a.png"]), ["x", "y"])
    data = load(tmp_path, path)
    assert [record.captions for record in data.records] == [("y",)]
