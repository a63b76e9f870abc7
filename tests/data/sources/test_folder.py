"""Folders of images with captions in metadata files or beside each image."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from lcm.data.config import DataConfig
from lcm.data.load import load_data, load_records
from tests.support.folders import CAPTIONS, load_folder, make_folder, save_image, write_captions
from tests.support.samples import THREE, Example, captions_of, write_folder
from tests.support.worlds import write_images


def one_each(captions: dict[str, str]) -> dict[str, tuple[str, ...]]:
    return {key: (text,) for key, text in captions.items()}


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv", ".txt"])
def test_the_three_layouts_give_the_same_records(tmp_path: Path, layout: str) -> None:
    records = load_folder(make_folder(tmp_path / "x", layout))
    assert captions_of(records) == one_each(CAPTIONS)
    assert [record.key for record in records] == sorted(CAPTIONS)
    for record in records:
        image = record.image()
        assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (6, 5), (10, 20, 30))


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_a_byte_order_mark_is_no_part_of_the_metadata(tmp_path: Path, layout: str) -> None:
    assert captions_of(
        load_folder(make_folder(tmp_path, layout, encoding="utf-8-sig"))
    ) == one_each(CAPTIONS)


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path) -> None:
    assert captions_of(
        load_folder(make_folder(tmp_path, ".txt", encoding="utf-8-sig"))
    ) == one_each(CAPTIONS)


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_blank_lines_and_line_endings_do_not_matter(
    tmp_path: Path, layout: str, ending: str
) -> None:
    path = make_folder(tmp_path, layout) / layout
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", 2 * ending.encode()))
    assert captions_of(load_folder(tmp_path)) == one_each(CAPTIONS)


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_metadata_in_a_sub_folder_names_files_relative_to_itself(
    tmp_path: Path, layout: str
) -> None:
    make_folder(tmp_path / "one", layout, {"a.png": "first", "in/b.png": "second"})
    make_folder(tmp_path / "two", layout, {"a.png": "third"})
    want = {"one/a.png": ("first",), "one/in/b.png": ("second",), "two/a.png": ("third",)}
    assert captions_of(load_folder(tmp_path)) == want


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_metadata_wins_over_text_files_and_text_files_fill_its_gaps(
    tmp_path: Path, layout: str
) -> None:
    make_folder(tmp_path, ".txt", dict.fromkeys(CAPTIONS, "from text"))
    write_captions(tmp_path, layout, {"a.png": "from metadata", "b.png": "  "})
    want = {"a.png": ("from metadata",), "b.png": ("from text",), "deep/er/c.png": ("from text",)}
    assert captions_of(load_folder(tmp_path)) == want


def test_a_list_of_captions_is_kept_without_empty_ones(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    row = {"file_name": "a.png", "text": ["first ", "", "second", None, " "]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    assert captions_of(load_folder(tmp_path)) == {"a.png": ("first", "second")}


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_another_caption_column(tmp_path: Path, layout: str) -> None:
    folder = make_folder(tmp_path, layout, column="what is seen")
    assert captions_of(load_folder(folder, caption_column="what is seen")) == one_each(CAPTIONS)


@pytest.mark.parametrize(
    "suffix", [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".PNG", ".JPG"]
)
def test_every_image_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    records = load_folder(make_folder(tmp_path, ".txt", {f"a{suffix}": "a ball"}))
    assert captions_of(records) == {f"a{suffix}": ("a ball",)}
    np.testing.assert_allclose(
        np.asarray(records[0].image()), np.broadcast_to([10, 20, 30], (5, 6, 3)), atol=6
    )


def test_a_folder_may_lie_behind_a_link(tmp_path: Path) -> None:
    make_folder(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    assert captions_of(load_folder(tmp_path / "link")) == one_each(CAPTIONS)


def test_a_folder_of_links_is_a_folder_of_images(tmp_path: Path) -> None:
    store = write_images(tmp_path / "store", count=3)
    (tmp_path / "links").mkdir()
    for path in store.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    records = load_records(DataConfig(train_data_dir=str(tmp_path / "links")))
    assert [record.key for record in records] == ["0.png", "1.png", "2.png"]
    assert records[0].captions == ("picture 0",)


datasets.disable_progress_bars()


def test_every_line_of_a_text_file_is_a_caption(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(THREE[0].data)
    (tmp_path / "a.txt").write_bytes("one\r\n\r\n  two \u2028 halves\t\n \nthree".encode())
    (record,) = load_records(DataConfig(train_data_dir=str(tmp_path)))
    assert record.captions == ("one", "two \u2028 halves", "three")


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_rows_of_one_file_add_up(tmp_path: Path, layout: str) -> None:
    (tmp_path / "a.png").write_bytes(THREE[0].data)
    rows = [("a.png", "one"), ("./a.png", "two"), ("a.png", "one"), ("a.png", " ")]
    if layout == "metadata.csv":
        (tmp_path / layout).write_text(
            "\n".join(["file_name,text", *(",".join(row) for row in rows)])
        )
    else:
        (tmp_path / layout).write_text(
            "\n".join(json.dumps({"file_name": name, "text": text}) for name, text in rows)
        )
    (record,) = load_records(DataConfig(train_data_dir=str(tmp_path)))
    assert record.captions == ("one", "two")


def test_pictures_of_other_formats_in_a_folder_are_counted(tmp_path: Path) -> None:
    write_folder(
        tmp_path,
        [THREE[0], Example("notes.doc", b"", ("listed",)), Example("movie.gif", b"", ("listed",))],
    )
    for name in ("photo.HEIC", "deep/drawing.svg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "read me.md").write_text("not counted: nobody takes it for a picture")
    data = load_data(DataConfig(train_data_dir=str(tmp_path)))
    assert (len(data.records), data.dropped) == (
        1,
        {"in another format than PNG, JPEG, WEBP, BMP, TIFF": 4},
    )
