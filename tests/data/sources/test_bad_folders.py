"""Folders that cannot be read as they are, and what their errors name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.folders import load_folder, make_folder, save_image, write_captions


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train_data_dir.*nowhere"):
        load_folder(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train_data_dir.*a\.png.*folder"):
        load_folder(save_image(tmp_path / "a.png"))


@pytest.mark.parametrize("files", [[], ["notes.md", "metadata.jsonl"]])
def test_a_folder_without_images_is_named(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=r"train_data_dir.*no images.*\.png") as error:
        load_folder(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_without_any_caption_the_error_names_the_three_layouts(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_image(tmp_path / name)
    with pytest.raises(ValueError, match="2 images") as error:
        load_folder(tmp_path, caption_column="seen")
    for part in (str(tmp_path), "metadata.jsonl", "metadata.csv", ".txt", "file_name", "seen"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        '{"file_name": "a.png", "text": "x"',
        "a.png, x",
        "{'file_name': 'a.png'}",
        "[1, 2]",
        '"a.png"',
        "3",
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str) -> None:
    path = make_folder(tmp_path) / "metadata.jsonl"
    good = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([good[0], "", line, *good[1:]]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 3 "):
        load_folder(tmp_path)


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_missing_columns_are_named(tmp_path: Path, layout: str) -> None:
    make_folder(tmp_path, layout, column="description")
    with pytest.raises(
        ValueError,
        match=rf"{layout}.*description, file_name.*needs file_name and text.*--caption_column",
    ):
        load_folder(tmp_path)


def test_metadata_without_file_names_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("image,text\na.png,a ball\n")
    with pytest.raises(ValueError, match=r"metadata\.csv.*image, text.*needs file_name"):
        load_folder(tmp_path)


def test_an_unquoted_comma_in_a_csv_caption_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,a red, round ball\n")
    with pytest.raises(ValueError, match=r"metadata\.csv"):
        load_folder(tmp_path)


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_metadata_that_is_not_utf8_is_named(tmp_path: Path, layout: str) -> None:
    make_folder(tmp_path, layout, {"a.png": "größer"}, encoding="latin-1")
    with pytest.raises(ValueError, match=layout.replace(".", r"\.")):
        load_folder(tmp_path)


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("where", ["../outside.png", "in/../../outside.png", "absolute"])
def test_file_names_outside_the_folder_are_refused(tmp_path: Path, layout: str, where: str) -> None:
    outside = save_image(tmp_path / "outside.png")
    folder = make_folder(tmp_path / "data")
    (folder / "metadata.jsonl").unlink()
    write_captions(
        folder, layout, {"a.png": "x", str(outside) if where == "absolute" else where: "y"}
    )
    with pytest.raises(ValueError, match=rf"{layout}.*outside\.png.*outside"):
        load_folder(folder)
