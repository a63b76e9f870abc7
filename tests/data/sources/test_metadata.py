"""Rows of metadata that name no picture, and files that may be meant for captions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lcm.data.config import DataConfig
from lcm.data.load import load_data, load_records
from tests.support.folders import load_folder, save_image
from tests.support.samples import captions_of


def write_row(folder: Path, layout: str, name: Any) -> Path:
    path = folder / layout
    if layout.endswith("csv"):
        path.write_text(f'file_name,text\n"{name}",seen\n')
    else:
        path.write_text("\n" + json.dumps({"file_name": name, "text": "seen"}))
    return path


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv", "Metadata.JSONL"])
@pytest.mark.parametrize("name", ["train/a.png", "b.png", "A.PNG", "img\\c.png"])
def test_the_first_row_that_misses_is_told_with_where_it_was_looked_for(
    tmp_path: Path, layout: str, name: str
) -> None:
    save_image(tmp_path / "train" / "a.png")
    path = write_row(tmp_path / "train", layout, name)
    with pytest.raises(ValueError, match="none of the 1 images has a caption") as error:
        load_folder(tmp_path)
    text = str(error.value)
    number = 1 if layout.endswith("csv") else 2
    assert f"{path}, row {number}: file_name {name!r} is looked for at {path.parent / name}" in text


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_separators_of_windows_lead_to_the_file(tmp_path: Path, layout: str) -> None:
    save_image(tmp_path / "img" / "deep" / "a.png")
    write_row(tmp_path, layout, "img\\deep\\a.png")
    assert captions_of(load_folder(tmp_path)) == {"img/deep/a.png": ("seen",)}


@pytest.mark.skipif(os.sep == "\\", reason="names of files may hold no backslash")
def test_a_file_whose_name_has_a_backslash_is_that_file(tmp_path: Path) -> None:
    for name in ("img\\a.png", "img/a.png"):
        save_image(tmp_path / name)
    write_row(tmp_path, "metadata.jsonl", "img\\a.png")
    assert captions_of(load_folder(tmp_path)) == {"img\\a.png": ("seen",)}


@pytest.mark.parametrize("name", ["..\\outside.png", "img\\..\\..\\outside.png"])
def test_separators_of_windows_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    for path in (tmp_path / "outside.png", data / "a.png"):
        save_image(path)
    write_row(data, "metadata.jsonl", name)
    with pytest.raises(ValueError, match="none of the 1 images has a caption"):
        load_folder(data)


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "", ".", "a\x00b.png", None, 7])
def test_a_name_that_no_file_has_costs_its_row_alone(
    tmp_path: Path, layout: str, name: Any
) -> None:
    save_image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("seen")
    if layout.endswith("csv") and isinstance(name, str) and "\x00" in name:
        pytest.skip("a file with zero bytes is no text")
    write_row(tmp_path, layout, name)
    data = load_data(DataConfig(train_data_dir=str(tmp_path)))
    assert captions_of(data.records) == {"a.png": ("seen",)}
    assert data.dropped == {"listed in the metadata but missing": 1}


@pytest.mark.parametrize(
    "name",
    [
        *("metadata.json1", "metadata.json", "metadata.parquet", "captions.yaml", "all.tsv"),
        *("a.jpg.txt", "a.json", "a.tags", "a.jpg.caption", "a.txt.bak"),
    ],
)
def test_files_that_may_be_meant_for_captions_are_named(tmp_path: Path, name: str) -> None:
    save_image(tmp_path / "a.jpg")
    (tmp_path / name).write_text("a cat")
    with pytest.raises(ValueError, match=r"has a caption; .* is not read; add a metadata") as error:
        load_folder(tmp_path)
    assert f"{name} is not read" in str(error.value)


@pytest.mark.parametrize(
    "names",
    [("A.JPG", "A.TXT"), ("a.jpg", "a.Txt"), ("A.Jpeg", "A.caption"), ("v1.5.png", "v1.5.CAPTION")],
)
def test_upper_case_does_not_matter(tmp_path: Path, names: tuple[str, str]) -> None:
    picture, text = names
    save_image(tmp_path / picture)
    (tmp_path / text).write_text("seen")
    assert captions_of(load_folder(tmp_path)) == {picture: ("seen",)}


def test_a_text_goes_before_a_file_of_kohya_unless_it_is_blank(tmp_path: Path) -> None:
    for stem, text in (("a", "from txt"), ("b", " \n")):
        save_image(tmp_path / f"{stem}.png")
        (tmp_path / f"{stem}.txt").write_text(text)
        (tmp_path / f"{stem}.caption").write_text("from caption")
    want = {"a.png": ("from txt",), "b.png": ("from caption",)}
    assert captions_of(load_folder(tmp_path)) == want


@pytest.mark.parametrize(
    ("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")]
)
def test_another_separator_than_commas_is_named(tmp_path: Path, separator: str, name: str) -> None:
    save_image(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text(
        f"file_name{separator}text\na.png{separator}a red, round ball\n"
    )
    with pytest.raises(ValueError, match=rf"metadata\.csv is separated by {name}.*commas"):
        load_folder(tmp_path)


@pytest.mark.parametrize("line", ["[" * 200_000, '{"a":' * 200_000, '{"a": ' + "9" * 5000 + "}"])
def test_a_row_that_cannot_be_read_is_one_line_of_error(tmp_path: Path, line: str) -> None:
    save_image(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 2 is ") as error:
        load_folder(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_number_that_is_none_elsewhere_in_a_row_does_not_matter(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    row = '{"file_name": "a.png", "text": "seen", "score": NaN}'
    (tmp_path / "metadata.jsonl").write_text(row)
    assert captions_of(load_folder(tmp_path)) == {"a.png": ("seen",)}


def test_an_empty_place_is_no_place() -> None:
    for flag in ("train_data_dir", "webdataset", "parquet_files", "prompts_file", "dataset_name"):
        with pytest.raises(ValueError, match=f"{flag} is empty"):
            load_records(DataConfig(**{flag: " "}))
