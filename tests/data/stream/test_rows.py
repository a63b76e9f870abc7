"""What a stream gives is what the same data give unstreamed."""

from __future__ import annotations

import dataclasses
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from lcm.data.load import load_data
from lcm.data.sources.tables import is_part
from lcm.system.secrets import one_line
from tests.support.listed import (
    COUNT,
    Kept,
    config_of,
    content,
    load_streamed,
    pictures_of,
    write_tables,
)
from tests.support.pictures import HOSTILE
from tests.support.samples import (
    STRUCT,
    Example,
    write_folder,
    write_members,
    write_parquet,
    write_rows,
)


def write_tars(folder: Path, examples: list[Example]) -> Path:
    folder.mkdir()
    members = [
        (e.name, e.data, f"{Path(e.name).stem}.txt", e.captions[0].encode()) for e in examples
    ]
    write_members(
        folder / "shard.tar", [pair for a, b, c, d in members for pair in ((a, b), (c, d))]
    )
    return folder


def write_pictures(folder: Path, examples: list[Example]) -> Path:
    """One caption each, as `datasets` wants a column to have one type."""
    write_folder(folder, examples)
    rows = [
        json.dumps({"file_name": example.name, "text": example.captions[0]}) for example in examples
    ]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def write_zip(folder: Path, examples: list[Example]) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for path in sorted(write_pictures(folder.with_name("unpacked"), examples).iterdir()):
            archive.write(path, path.name)
    return folder


def write_saved(folder: Path, examples: list[Example]) -> Path:
    datasets.Dataset.from_parquet(write_parquet(folder.parent, examples)).save_to_disk(folder)
    return folder


KINDS: dict[str, tuple[Callable[[Path, list[Example]], Path], dict[str, Any]]] = {
    "parquet": (write_tables, {}),
    "tar": (write_tars, {"image_column": "png", "caption_column": "txt"}),
    "folder": (write_pictures, {}),
    "zip": (write_zip, {}),
    "save_to_disk": (write_saved, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_gives_what_the_same_data_give_unstreamed(tmp_path: Path, kind: str) -> None:
    write, columns = KINDS[kind]
    folder, sink = write(tmp_path / "rows", pictures_of()), Kept()
    streamed = load_streamed(folder, sink, **columns)
    assert content(streamed) == content(load_data(config_of(folder, **columns)))
    assert sink.seen == {f"{folder}[{i}]": (6 + i, 5) for i in range(COUNT)}
    assert all(record.read is None for record in streamed.records)


def test_hostile_rows_are_left_out_for_the_reasons_that_they_have_unstreamed(
    tmp_path: Path, caplog: Any
) -> None:
    cells = [{"bytes": data, "path": None} for data, _ in HOSTILE.values()]
    cells += [None, {"bytes": None, "path": None}]
    paths = [
        "/etc/passwd",
        "../out.png",
        "https://example.com/a.png",
        "hf://datasets/some/one@main/a.png",
        "zip://a::/etc/a.zip",
    ]
    cells += [{"bytes": None, "path": path} for path in paths]
    good = [{"bytes": example.data, "path": None} for example in pictures_of(4)]
    texts: list[Any] = [["x"]] * len(cells) + [[], None, ["", " "], ["good"]]
    path = write_rows(
        tmp_path / "rows" / "a.parquet", pa.array([*cells, *good], STRUCT), pa.array(texts)
    )
    (tmp_path / "out.png").write_bytes(pictures_of()[0].data)
    plainly = load_data(config_of(path.parent))
    caplog.clear()
    streamed = load_streamed(path.parent)
    assert content(streamed) == content(plainly)
    assert [record.captions for record in streamed.records] == [("good",)]
    assert streamed.dropped == {
        "unreadable": 9 + 2 + 5,
        "too large to decode safely": 2,
        "without a caption": 3,
    }
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len([line for line in warned if line.startswith("skipping ")]) == 18
    assert sum("is no part of" in line for line in warned) == 3
    assert content(load_streamed(path.parent)) == content(plainly)  # from the listing


def test_a_stream_without_a_usable_sample_says_why(tmp_path: Path) -> None:
    silent = [dataclasses.replace(example, captions=("",)) for example in pictures_of(4)]
    with pytest.raises(
        ValueError,
        match="none of the 4 images has a caption; its column text is empty; pass --caption_column",
    ):
        load_streamed(write_tables(tmp_path / "silent", silent))
    broken = [dataclasses.replace(example, data=b"no picture") for example in pictures_of(4)]
    with pytest.raises(ValueError, match="no usable sample; dropped: 4 unreadable"):
        load_streamed(write_tables(tmp_path / "broken", broken))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"image_column": "absent"},
            "has no column 'absent'; its columns are image, text, n; pass --image_column",
        ),
        (
            {"caption_column": "absent"},
            "has no column 'absent'; its columns are image, text, n; pass --caption_column",
        ),
        ({"image_column": "n"}, "column 'n' of .* holds no images"),
        ({"dataset_config_name": "absent"}, "could not be loaded: .*absent"),
    ],
)
def test_a_wrong_flag_is_named(tmp_path: Path, changes: dict[str, str], told: str) -> None:
    write_rows(
        tmp_path / "rows" / "a.parquet",
        pa.array([e.data for e in pictures_of(3)], pa.binary()),
        ["x"] * 3,
        n=[1, 2, 3],
    )
    with pytest.raises(ValueError, match=f"dataset_name: .*{told}"):
        load_streamed(tmp_path / "rows", **changes)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset_name: .*nowhere could not be loaded"):
        load_streamed(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("hf://datasets/some/one@abc/train/a.png", True),
        ("zip://in/a.png::hf://datasets/some/one@abc/train.zip", True),
        ("hf://datasets/some/other@abc/a.png", False),
        ("hf://datasets/some/one-else@abc/a.png", False),
        ("hf://datasets/some/one@abc/../../other@abc/a.png", False),
        ("file:///etc/passwd::hf://datasets/some/one@abc/train.zip", False),
        ("https://example.com/a.png", False),
        ("file:///data/a.png", False),
        ("zip://a.png::/data/a.zip", True),
        ("zip://a.png::/data/../etc/a.zip", False),
        ("zip://a.png::/database/a.zip", False),
    ],
)
def test_cells_may_name_files_of_their_own_data_set_alone(path: str, part: bool) -> None:
    assert is_part(path, (Path("/data"),), "some/one") == part


def test_messages_carry_no_secrets() -> None:
    url = "https://cdn.example.com/a/b.parquet?X-Amz-Signature=abcdef&Expires=1"
    said = one_line(OSError(f"403 for url '{url}'\nwith token hf_abcdefghijkLMNOP"))
    assert said == "403 for url 'https://cdn.example.com/a/b.parquet' with token ***"
