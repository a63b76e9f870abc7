"""The data path: what is kept and dropped, exact pixels, and random numbers that follow from (seed,
epoch, key) alone.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
import pickle
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from lcm.data.batch import Sample, SampleBatch, collate
from lcm.data.config import CacheConfig, DataConfig, SampleConfig, check_data
from lcm.data.dataset import TrainDataset
from lcm.data.load import load_records
from lcm.data.records import Record, fingerprint
from lcm.data.sampler import StepSampler
from tests.support.samples import captions_of
from tests.support.squares import square_data
from tests.support.worlds import write_images

LATENT = (4, 3, 5)
CAPTIONS = {"a.png": "a red ball", "b.png": 'a "blue, round" ball', "deep/er/c.png": "größer 貓"}


def save_image(
    path: Path, color: Any = (10, 20, 30), size: tuple[int, int] = (6, 5), mode: str = "RGB"
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


def write_captions(
    folder: Path,
    layout: str,
    captions: dict[str, str],
    column: str = "text",
    encoding: str = "utf-8",
) -> None:
    if layout == "metadata.jsonl":
        lines = [
            json.dumps({"file_name": name, column: text}, ensure_ascii=False)
            for name, text in captions.items()
        ]
        (folder / layout).write_text("\n".join(lines) + "\n", encoding=encoding)
    elif layout == "metadata.csv":
        with (folder / layout).open("w", encoding=encoding, newline="") as file:
            csv.writer(file).writerows([["file_name", column], *captions.items()])
    else:
        for name, text in captions.items():
            (folder / name).with_suffix(".txt").write_text(text + "\n", encoding=encoding)


def make_folder(
    folder: Path,
    layout: str = "metadata.jsonl",
    captions: dict[str, str] = CAPTIONS,
    **options: Any,
) -> Path:
    for name in captions:
        save_image(folder / name)
    write_captions(folder, layout, captions, **options)
    return folder


def load(folder: Path, **changes: Any) -> list[Record]:
    return load_records(DataConfig(train_data_dir=str(folder), **changes))


def one_each(captions: dict[str, str]) -> dict[str, tuple[str, ...]]:
    return {key: (text,) for key, text in captions.items()}


# folders


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv", ".txt"])
def test_the_three_layouts_give_the_same_records(tmp_path: Path, layout: str) -> None:
    records = load(make_folder(tmp_path / "x", layout))
    assert captions_of(records) == one_each(CAPTIONS)
    assert [record.key for record in records] == sorted(CAPTIONS)
    for record in records:
        image = record.image()
        assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (6, 5), (10, 20, 30))


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_a_byte_order_mark_is_no_part_of_the_metadata(tmp_path: Path, layout: str) -> None:
    assert captions_of(load(make_folder(tmp_path, layout, encoding="utf-8-sig"))) == one_each(
        CAPTIONS
    )


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path) -> None:
    assert captions_of(load(make_folder(tmp_path, ".txt", encoding="utf-8-sig"))) == one_each(
        CAPTIONS
    )


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_blank_lines_and_line_endings_do_not_matter(
    tmp_path: Path, layout: str, ending: str
) -> None:
    path = make_folder(tmp_path, layout) / layout
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", 2 * ending.encode()))
    assert captions_of(load(tmp_path)) == one_each(CAPTIONS)


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_metadata_in_a_sub_folder_names_files_relative_to_itself(
    tmp_path: Path, layout: str
) -> None:
    make_folder(tmp_path / "one", layout, {"a.png": "first", "in/b.png": "second"})
    make_folder(tmp_path / "two", layout, {"a.png": "third"})
    want = {"one/a.png": ("first",), "one/in/b.png": ("second",), "two/a.png": ("third",)}
    assert captions_of(load(tmp_path)) == want


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_metadata_wins_over_text_files_and_text_files_fill_its_gaps(
    tmp_path: Path, layout: str
) -> None:
    make_folder(tmp_path, ".txt", dict.fromkeys(CAPTIONS, "from text"))
    write_captions(tmp_path, layout, {"a.png": "from metadata", "b.png": "  "})
    want = {"a.png": ("from metadata",), "b.png": ("from text",), "deep/er/c.png": ("from text",)}
    assert captions_of(load(tmp_path)) == want


def test_a_list_of_captions_is_kept_without_empty_ones(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    row = {"file_name": "a.png", "text": ["first ", "", "second", None, " "]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    assert captions_of(load(tmp_path)) == {"a.png": ("first", "second")}


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_another_caption_column(tmp_path: Path, layout: str) -> None:
    folder = make_folder(tmp_path, layout, column="what is seen")
    assert captions_of(load(folder, caption_column="what is seen")) == one_each(CAPTIONS)


@pytest.mark.parametrize(
    "suffix", [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".PNG", ".JPG"]
)
def test_every_image_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    records = load(make_folder(tmp_path, ".txt", {f"a{suffix}": "a ball"}))
    assert captions_of(records) == {f"a{suffix}": ("a ball",)}
    np.testing.assert_allclose(
        np.asarray(records[0].image()), np.broadcast_to([10, 20, 30], (5, 6, 3)), atol=6
    )


def test_a_folder_may_lie_behind_a_link(tmp_path: Path) -> None:
    make_folder(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    assert captions_of(load(tmp_path / "link")) == one_each(CAPTIONS)


def test_max_train_samples_takes_the_first(tmp_path: Path) -> None:
    make_folder(tmp_path)
    assert [record.key for record in load(tmp_path, max_train_samples=2)] == ["a.png", "b.png"]
    assert len(load(tmp_path, max_train_samples=99)) == 3


@pytest.mark.parametrize(
    ("mode", "color", "want"),
    [
        ("RGB", (200, 10, 20), (200, 10, 20)),
        ("RGBA", (200, 10, 20, 255), (200, 10, 20)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("P", (200, 10, 20), (200, 10, 20)),
        ("I;16", 0x8080, (128, 128, 128)),
    ],
)
def test_every_kind_of_png_comes_out_as_rgb(
    tmp_path: Path, mode: str, color: Any, want: tuple[int, int, int]
) -> None:
    save_image(tmp_path / "a.png", color, mode=mode)
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == mode
    write_captions(tmp_path, ".txt", {"a.png": "x"})
    image = load(tmp_path)[0].image()
    assert (image.mode, image.getpixel((3, 2))) == ("RGB", want)


RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
STORED_CORNERS = {
    1: (RED, GREEN, BLUE, GREY),
    2: (GREEN, RED, GREY, BLUE),
    3: (GREY, BLUE, GREEN, RED),
    4: (BLUE, GREY, RED, GREEN),
    5: (RED, BLUE, GREEN, GREY),
    6: (GREEN, GREY, RED, BLUE),
    7: (GREY, GREEN, BLUE, RED),
    8: (BLUE, RED, GREY, GREEN),
}
"""What a camera stores at top left, top right, bottom left, bottom right under each EXIF
orientation when it sees red, green, blue, grey there.
"""


@pytest.mark.parametrize("orientation", STORED_CORNERS)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_rotated_images_come_out_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    size = (64, 32) if orientation < 5 else (32, 64)
    image = Image.new("RGB", size)
    for i, color in enumerate(STORED_CORNERS[orientation]):
        box = (i % 2 * size[0] // 2, i // 2 * size[1] // 2)
        image.paste(color, (*box, box[0] + size[0] // 2, box[1] + size[1] // 2))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a{suffix}", exif=exif)
    write_captions(tmp_path, ".txt", {f"a{suffix}": "x"})
    upright = load(tmp_path)[0].image()
    assert (upright.mode, upright.size) == ("RGB", (64, 32))
    for place, color in (((8, 8), RED), ((56, 8), GREEN), ((8, 24), BLUE), ((56, 24), GREY)):
        np.testing.assert_allclose(upright.getpixel(place), color, atol=6)


# bad input


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train_data_dir.*nowhere"):
        load(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train_data_dir.*a\.png.*folder"):
        load(save_image(tmp_path / "a.png"))


@pytest.mark.parametrize("files", [[], ["notes.md", "metadata.jsonl"]])
def test_a_folder_without_images_is_named(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=r"train_data_dir.*no images.*\.png") as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_without_any_caption_the_error_names_the_three_layouts(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_image(tmp_path / name)
    with pytest.raises(ValueError, match="2 images") as error:
        load(tmp_path, caption_column="seen")
    for part in (str(tmp_path), "metadata.jsonl", "metadata.csv", ".txt", "file_name", "seen"):
        assert part in str(error.value)


def kept_and_dropped(caplog: pytest.LogCaptureFixture) -> str:
    lines = [record.getMessage() for record in caplog.records if "kept" in record.getMessage()]
    assert len(lines) == 1
    return lines[0]


def test_what_is_dropped_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for i in range(10):
        save_image(tmp_path / f"{i}.png")
    (tmp_path / "8.png").write_bytes((tmp_path / "8.png").read_bytes()[:40])
    captioned = {f"{i}.png": "x" for i in (0, 1, 2, 3, 8)}
    write_captions(
        tmp_path,
        "metadata.jsonl",
        {**captioned, **{f"gone {i}.png": "x" for i in range(7)}, "4.png": ""},
    )
    assert [record.key for record in load(tmp_path)] == ["0.png", "1.png", "2.png", "3.png"]
    line = kept_and_dropped(caplog)
    for part in (
        str(tmp_path),
        "kept 4 ",
        "5 without a caption",
        "7 listed in the metadata but missing",
        "1 unreadable",
    ):
        assert part in line
    assert any(
        "8.png" in record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING
    )


def test_a_sound_folder_drops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    load(make_folder(tmp_path))
    assert "kept 3 " in kept_and_dropped(caplog)
    assert "dropped: nothing" in kept_and_dropped(caplog)


def break_file(path: Path, damage: str) -> None:
    if damage == "text":
        path.write_text("this is no picture")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", ["text", "empty", "half"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_unreadable_files_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, suffix: str
) -> None:
    caplog.set_level(logging.INFO)
    make_folder(tmp_path, ".txt", {f"{i}{suffix}": f"picture {i}" for i in range(4)})
    for i in (1, 2):
        break_file(tmp_path / f"{i}{suffix}", damage)
    assert captions_of(load(tmp_path)) == {
        f"0{suffix}": ("picture 0",),
        f"3{suffix}": ("picture 3",),
    }
    assert "kept 2 " in kept_and_dropped(caplog)
    assert "2 unreadable" in kept_and_dropped(caplog)
    warnings = " ".join(
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    )
    assert f"1{suffix}" in warnings
    assert f"2{suffix}" in warnings


@pytest.mark.parametrize("kind", ["EPS", "GIF", "PPM"])
def test_a_file_of_another_format_is_skipped_whatever_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make_folder(tmp_path, ".txt", {"a.png": "one", "b.png": "two"})
    Image.new("RGB", (6, 5)).save(tmp_path / "b.png", format=kind)

    def start(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", start)
    caplog.set_level(logging.INFO)
    assert captions_of(load(tmp_path)) == {"a.png": ("one",)}
    assert "1 unreadable" in kept_and_dropped(caplog)
    (warning,) = [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ]
    assert (
        "skipping b.png, which cannot be read as an image (PNG, JPEG, WEBP, BMP, TIFF): its "
        "content is none of these" in warning
    )


def test_a_photograph_with_a_second_picture_inside_is_a_jpeg(tmp_path: Path) -> None:
    """Telephones write such files; PIL calls them MPO."""
    first, second = (Image.new("RGB", (16, 16), color) for color in (RED, BLUE))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    write_captions(tmp_path, ".txt", {"a.jpg": "x"})
    np.testing.assert_allclose(load(tmp_path)[0].image().getpixel((3, 2)), RED, atol=6)


def test_when_every_file_is_unreadable_the_error_names_the_fix(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for name in CAPTIONS:
        break_file(tmp_path / name, "half")
    with pytest.raises(
        ValueError, match=r"no usable sample.*3 unreadable.*Replace the files"
    ) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


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
        load(tmp_path)


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_missing_columns_are_named(tmp_path: Path, layout: str) -> None:
    make_folder(tmp_path, layout, column="description")
    with pytest.raises(
        ValueError,
        match=rf"{layout}.*description, file_name.*needs file_name and text.*--caption_column",
    ):
        load(tmp_path)


def test_metadata_without_file_names_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("image,text\na.png,a ball\n")
    with pytest.raises(ValueError, match=r"metadata\.csv.*image, text.*needs file_name"):
        load(tmp_path)


def test_an_unquoted_comma_in_a_csv_caption_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,a red, round ball\n")
    with pytest.raises(ValueError, match=r"metadata\.csv"):
        load(tmp_path)


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_metadata_that_is_not_utf8_is_named(tmp_path: Path, layout: str) -> None:
    make_folder(tmp_path, layout, {"a.png": "größer"}, encoding="latin-1")
    with pytest.raises(ValueError, match=layout.replace(".", r"\.")):
        load(tmp_path)


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
        load(folder)


@pytest.mark.parametrize(
    "config",
    [DataConfig(), DataConfig(train_data_dir="x", dataset_name="y")],
    ids=["neither", "both"],
)
def test_exactly_one_source_is_asked_for(config: DataConfig) -> None:
    with pytest.raises(ValueError, match=r"--train_data_dir.*--dataset_name"):
        check_data(config, SampleConfig(), CacheConfig())


# data sets


def make_table(tmp_path: Path, embed: bool = False) -> Any:
    """Four pictures, as paths or as bytes in the table itself."""
    import datasets

    datasets.disable_progress_bars()
    paths = [save_image(tmp_path / "files" / f"{i}.png", (i, 50 + i, 100 + i)) for i in range(4)]
    cells = (
        [{"bytes": path.read_bytes(), "path": None} for path in paths]
        if embed
        else [str(path) for path in paths]
    )
    table = {"picture": cells, "caption": ["zero", "", "two", None]}
    return datasets.Dataset.from_dict(table).cast_column("picture", datasets.Image())


def make_dataset(tmp_path: Path, kind: str) -> Path:
    import datasets

    folder = tmp_path / kind
    folder.mkdir()
    table = make_table(tmp_path, embed=kind == "parquet")
    if kind == "parquet":
        table.to_parquet(folder / "train.parquet")
        shutil.rmtree(tmp_path / "files")
    elif kind == "saved":
        table.save_to_disk(folder)
    elif kind == "saved splits":
        datasets.DatasetDict({"test": table.select([0]), "train": table}).save_to_disk(folder)
    else:
        datasets.DatasetDict({"all": table}).save_to_disk(folder)
    return folder


def data_config(tmp_path: Path, name: Any, **changes: Any) -> DataConfig:
    options = {
        "image_column": "picture",
        "caption_column": "caption",
        "cache_dir": str(tmp_path / "cache"),
        **changes,
    }
    return DataConfig(dataset_name=str(name), **options)


@pytest.mark.parametrize("kind", ["parquet", "saved", "saved splits", "saved single split"])
def test_local_data_sets(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    folder = make_dataset(tmp_path, kind)
    caplog.set_level(logging.INFO)
    records = load_records(data_config(tmp_path, folder))
    assert [record.captions for record in records] == [("zero",), ("two",)]
    assert len({record.key for record in records}) == 2
    assert "2 without a caption" in kept_and_dropped(caplog)
    for record, i in zip(pickle.loads(pickle.dumps(records)), (0, 2), strict=True):
        image = record.image()
        assert (image.mode, image.size, image.getpixel((5, 4))) == (
            "RGB",
            (6, 5),
            (i, 50 + i, 100 + i),
        )


def test_a_folder_of_images_as_a_data_set(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", captions={"a.png": "first", "b.png": "second"})
    config = data_config(tmp_path, folder, image_column="image", caption_column="text")
    records = load_records(config)
    assert sorted(record.captions for record in records) == [("first",), ("second",)]
    assert all(record.image().getpixel((0, 0)) == (10, 20, 30) for record in records)


def test_caption_lists_and_unreadable_cells_of_a_data_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import datasets

    table = make_table(tmp_path)
    captions = [["one", "", "uno"], [], ["three"], ["four"]]
    table = table.remove_columns("caption").add_column("caption", captions)
    break_file(tmp_path / "files" / "2.png", "text")
    datasets.Dataset.save_to_disk(
        table.cast_column("picture", datasets.Image(decode=False)), tmp_path / "saved"
    )
    caplog.set_level(logging.INFO)
    records = load_records(data_config(tmp_path, tmp_path / "saved"))
    assert [record.captions for record in records] == [("one", "uno"), ("four",)]
    assert "1 unreadable" in kept_and_dropped(caplog)


def make_paths(tmp_path: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Files that a table may name, inside and outside of `folder`."""
    inside, outside = (
        save_image(folder / "in" / "a.png"),
        save_image(tmp_path / "outside" / "b.png"),
    )
    (folder / "link.png").symlink_to(outside)
    (folder / "links").symlink_to(outside.parent, target_is_directory=True)
    (folder / "linked.png").symlink_to(inside)
    allowed = [str(inside), "in/a.png", "in/../in/a.png", "linked.png"]
    return allowed, [
        str(outside),
        "../outside/b.png",
        "in/../../outside/b.png",
        "link.png",
        str(folder / "links" / "b.png"),
    ]


def read_paths(
    tmp_path: Path, paths: list[str], caplog: pytest.LogCaptureFixture, folder: Path, **changes: Any
) -> list[str]:
    """Those that were read; every other one must be warned about by name."""
    caplog.set_level(logging.INFO)
    records = load_records(data_config(tmp_path, folder, **changes))
    kept = [paths[int(record.captions[0])] for record in records]
    dropped = [path for path in paths if path not in kept]
    warnings = [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ]
    for path in dropped:
        assert sum(f"its file {path} is not below" in warning for warning in warnings) == 1
    assert f"dropped: {len(dropped)} unreadable" in kept_and_dropped(caplog)
    return kept


def table_of(paths: list[str]) -> Any:
    import datasets

    return datasets.Dataset.from_dict(
        {"picture": paths, "caption": [str(i) for i in range(len(paths))]}
    )


def test_a_table_may_name_files_of_its_own_folder_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    allowed, refused = make_paths(tmp_path, tmp_path / "saved")
    table_of([*refused, *allowed]).save_to_disk(tmp_path / "saved")
    (tmp_path / "behind a link").symlink_to(tmp_path / "saved", target_is_directory=True)
    assert read_paths(tmp_path, [*refused, *allowed], caplog, tmp_path / "behind a link") == allowed


@pytest.mark.parametrize("cache", ["cache_dir", "hub"])
def test_a_table_of_the_hub_may_name_downloaded_files_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    allowed, refused = (
        [path for path in some if path.startswith("/")]
        for some in make_paths(tmp_path, tmp_path / "downloads")
    )
    monkeypatch.setattr(
        "datasets.load_dataset", lambda *_args, **_kwargs: table_of([*refused, *allowed])
    )
    if cache == "hub":
        monkeypatch.setattr("lcm.data.sources.dataset.HF_HUB_CACHE", str(tmp_path / "downloads"))
    changes = {"cache_dir": str(tmp_path / "downloads")} if cache == "cache_dir" else {}
    assert (
        read_paths(tmp_path, [*refused, *allowed], caplog, Path("someone/pictures"), **changes)
        == allowed
    )


@pytest.mark.parametrize("flag", ["image_column", "caption_column"])
def test_wrong_columns_of_a_data_set_list_the_columns(tmp_path: Path, flag: str) -> None:
    folder = make_dataset(tmp_path, "saved")
    with pytest.raises(ValueError, match=rf"no column 'absent'.*picture, caption.*--{flag}"):
        load_records(data_config(tmp_path, folder, **{flag: "absent"}))


@pytest.mark.parametrize("name", ["someone/absent-data-set", "./absent/folder"])
def test_a_data_set_that_cannot_be_loaded_is_one_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"dataset_name: {name} could not be loaded"):
        load_records(data_config(tmp_path, name))


# fingerprints


def unread() -> Path:
    raise AssertionError("the fingerprint must not read images")


def named(*entries: tuple[str, tuple[str, ...]]) -> list[Record]:
    return [Record(key, captions, unread) for key, captions in entries]


FIRST = (("a", ("x", "y")), ("b", ("z",)))


@pytest.mark.parametrize(
    "other",
    [
        (("a", ("x", "y")), ("b", ("Z",))),
        (("a", ("x", "y")), ("c", ("z",))),
        (("a", ("y", "x")), ("b", ("z",))),
        (("a", ("x y",)), ("b", ("z",))),
        (("a", ("x", "y", "")), ("b", ("z",))),
        (("ax", ("y",)), ("b", ("z",))),
        (("a", ("x", "y", "b", "z")),),
        (("b", ("z",)), ("a", ("x", "y"))),
        FIRST[:1],
        (*FIRST, ("c", ("w",))),
    ],
)
def test_the_fingerprint_changes_with_keys_and_captions(
    other: tuple[tuple[str, tuple[str, ...]], ...],
) -> None:
    assert fingerprint(named(*other)) != fingerprint(named(*FIRST))


def test_the_fingerprint_changes_with_nothing_else(tmp_path: Path) -> None:
    make_folder(tmp_path / "one", "metadata.jsonl")
    make_folder(tmp_path / "two", ".txt")
    assert fingerprint(load(tmp_path / "one")) == fingerprint(
        load(tmp_path / "two", image_column="other", max_train_samples=3)
    )


# pixels


def png_record(
    pixels: np.ndarray, key: str = "x", captions: tuple[str, ...] = ("a ball",)
) -> Record:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return Record(key, captions, partial(io.BytesIO, file.getvalue()))


def places(width: int, height: int) -> np.ndarray:
    """Every pixel tells its own place: red is x, green is y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, 7)], axis=-1).astype(np.uint8)


def make_data(records: list[Record], seed: int = 0, **changes: Any) -> TrainDataset:
    side = changes.pop("resolution", 16)
    return square_data(records, side, LATENT, samples=SampleConfig(**changes), seed=seed)


def as_bytes(pixels: Tensor) -> np.ndarray:
    """Pixels [3, R, R] in -1..1 back as [R, R, 3] in 0..255."""
    return ((pixels.double() + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(np.int64)


@pytest.mark.parametrize(
    "size",
    [(16, 16), (40, 16), (16, 40), (17, 33), (33, 17), (1, 1), (3, 200), (15, 16), (100, 99)],
)
@pytest.mark.parametrize("center_crop", [False, True])
def test_pixels_have_one_shape_type_and_range(size: tuple[int, int], center_crop: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = make_data([png_record(noise)], center_crop=center_crop, random_flip=True)
    for epoch in range(4):
        sample = data[epoch, 0]
        assert (sample.content.tensor.shape, sample.content.tensor.dtype) == (
            (3, 16, 16),
            torch.float32,
        )
        assert -1 <= sample.content.tensor.min() <= sample.content.tensor.max() <= 1
        size_told = sample.size
        assert (size_told.original_height, size_told.original_width) == (size[1], size[0])
        assert (size_told.height, size_told.width) == (16, 16)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("center_crop", [False, True])
def test_an_image_of_the_right_size_passes_unchanged(interpolation: str, center_crop: bool) -> None:
    pixels = np.arange(16 * 16 * 3, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8)
    data = make_data(
        [png_record(pixels)], interpolation_type=interpolation, center_crop=center_crop
    )
    want = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    sample = data[3, 0]
    assert torch.equal(sample.content.tensor, want)
    assert dataclasses.astuple(sample.size) == (16, 16, 0, 0, 16, 16)
    assert (want.min(), want.max()) == (-1, 1)


@pytest.mark.parametrize(
    ("size", "corner"),
    [((40, 16), (0, 12)), ((16, 40), (12, 0)), ((18, 16), (0, 1)), ((16, 16), (0, 0))],
)
def test_the_centre_crop_takes_the_middle(size: tuple[int, int], corner: tuple[int, int]) -> None:
    image = places(*size)
    data = make_data([png_record(image)], center_crop=True)
    top, left = corner
    for epoch in range(3):
        sample = data[epoch, 0]
        np.testing.assert_array_equal(
            as_bytes(sample.content.tensor), image[top : top + 16, left : left + 16]
        )
        assert dataclasses.astuple(sample.size) == (size[1], size[0], top, left, 16, 16)


@pytest.mark.parametrize("size", [(40, 16), (16, 40)])
@pytest.mark.parametrize("random_flip", [False, True])
def test_the_corner_that_is_told_is_the_corner_of_the_pixels(
    size: tuple[int, int], random_flip: bool
) -> None:
    image = places(*size)
    data = make_data([png_record(image)], random_flip=random_flip)
    corners: Counter[int] = Counter()
    mirrored = 0
    for epoch in range(400):
        sample = data[epoch, 0]
        top, left = sample.size.crop_top, sample.size.crop_left
        got = as_bytes(sample.content.tensor)
        is_mirrored = bool(got[0, 0, 0] > got[0, 1, 0])
        mirrored += is_mirrored
        want = image[:, ::-1] if is_mirrored else image
        assert 0 <= top <= size[1] - 16
        assert 0 <= left <= size[0] - 16
        np.testing.assert_array_equal(got, want[top : top + 16, left : left + 16])
        corners[top + left] += 1
    assert set(corners) == set(range(25))  # 16 expected of each
    assert max(corners.values()) < 40
    assert 150 < mirrored < 250 if random_flip else mirrored == 0


def test_the_mirror_image_differs_in_nothing_but_the_mirror() -> None:
    record = png_record(places(16, 16))
    plain, flipped = make_data([record]), make_data([record], random_flip=True)
    seen = set()
    for epoch in range(20):
        a, b = plain[epoch, 0].content.tensor, flipped[epoch, 0].content.tensor
        is_mirrored = not torch.equal(a, b)
        seen.add(is_mirrored)
        assert torch.equal(b, a.flip(-1) if is_mirrored else a)
    assert seen == {False, True}


def test_nearest_upscaling_repeats_pixels() -> None:
    small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    sample = make_data([png_record(small)], interpolation_type="nearest")[0, 0]
    np.testing.assert_array_equal(
        as_bytes(sample.content.tensor), small.repeat(2, axis=0).repeat(2, axis=1)
    )
    assert (sample.size.original_height, sample.size.original_width) == (8, 8)


@pytest.mark.parametrize(
    ("interpolation", "overshoots"),
    [("nearest", 0), ("bilinear", 0), ("bicubic", 1), ("lanczos", 1)],
)
def test_every_interpolation_is_the_one_it_is_named_for(
    interpolation: str, overshoots: int
) -> None:
    step = np.full((8, 8, 3), 64, dtype=np.uint8)
    step[:, 4:] = 192
    got = as_bytes(
        make_data([png_record(step)], interpolation_type=interpolation)[0, 0].content.tensor
    )
    assert (got.min() < 64, got.max() > 192) == (bool(overshoots), bool(overshoots))
    assert len(np.unique(got)) == 2 if interpolation == "nearest" else len(np.unique(got)) > 2
    np.testing.assert_array_equal(got + got[:, ::-1], 256)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(5, 8), (64, 48), (16, 200)])
def test_resizing_keeps_a_plain_colour(interpolation: str, size: tuple[int, int]) -> None:
    plain = np.full((size[1], size[0], 3), (3, 130, 250), dtype=np.uint8)
    got = as_bytes(
        make_data([png_record(plain)], interpolation_type=interpolation)[0, 0].content.tensor
    )
    np.testing.assert_array_equal(got, np.broadcast_to([3, 130, 250], (16, 16, 3)))


def test_resizing_keeps_the_proportions() -> None:
    """A 64 x 32 ramp becomes 32 x 16: the centre crop spans the middle half of the ramp."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (32, 64, 3))
    got = as_bytes(
        make_data(
            [png_record(np.ascontiguousarray(ramp))],
            center_crop=True,
            interpolation_type="bilinear",
        )[0, 0].content.tensor
    )
    np.testing.assert_allclose(got[8, :, 0], 4 * (16.5 + 2 * np.arange(16)), atol=2)


# random numbers


def noisy_records(count: int, side: int = 18) -> list[Record]:
    rng = np.random.default_rng(1)
    return [
        png_record(
            rng.integers(0, 256, (side, side + 4, 3), dtype=np.uint8),
            f"{i}.png",
            (f"one {i}", f"two {i}", f"three {i}"),
        )
        for i in range(count)
    ]


def assert_same(
    a: Sample | SampleBatch, b: Sample | SampleBatch, *, but: tuple[str, ...] = ()
) -> None:
    for field in dataclasses.fields(a):
        if field.name not in but:
            x, y = getattr(a, field.name), getattr(b, field.name)
            if field.name == "content":
                x, y = x.tensor, y.tensor
            assert torch.equal(x, y) if isinstance(x, Tensor) else x == y, field.name


OPTIONS = {"random_flip": True, "proportion_empty_prompts": 0.3}


def test_a_sample_does_not_depend_on_its_place_or_its_company() -> None:
    records = noisy_records(8)
    data = make_data(records, **OPTIONS)
    for other in (records[::-1], records[3:], [records[5]], [*noisy_records(20)[10:], *records]):
        shuffled = make_data(other, **OPTIONS)
        for epoch in (0, 7):
            assert_same(
                data[epoch, 5], shuffled[epoch, [record.key for record in other].index("5.png")]
            )


def test_a_sample_survives_pickling() -> None:
    data = make_data(noisy_records(3), **OPTIONS)
    copy = pickle.loads(pickle.dumps(data))
    assert len(copy) == 3
    for index in range(3):
        assert_same(data[4, index], copy[4, index])


def test_a_folder_survives_pickling(images: Path) -> None:
    data = make_data(load(images))
    assert_same(data[1, 2], pickle.loads(pickle.dumps(data))[1, 2])


def test_a_sample_neither_uses_nor_moves_global_generators() -> None:
    data = make_data(noisy_records(2), **OPTIONS)
    torch.manual_seed(1)
    np.random.seed(1)
    first = data[0, 0]
    after = torch.rand(1), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)
    assert after == (torch.rand(1), np.random.rand())
    data[0, 1], data[5, 0]
    assert_same(first, data[0, 0])


def test_epochs_seeds_and_keys_have_numbers_of_their_own() -> None:
    pixels = places(40, 16)
    records = [png_record(pixels, key) for key in ("a", "b", "1/a", "0/a")]
    samples = [
        make_data(records, seed)[epoch, i]
        for seed in (0, 1, 11)
        for epoch in (0, 1, 11)
        for i in range(4)
    ]
    for name in ("uniform_time", "uniform_guidance"):
        assert len({getattr(sample, name) for sample in samples}) == len(samples)
    for name in ("noise", "posterior_noise"):
        assert len({getattr(sample, name).numpy().tobytes() for sample in samples}) == len(samples)
    assert len({sample.size.crop_left for sample in samples}) > 10


@pytest.mark.parametrize(
    ("change", "may_change"),
    [
        ({"random_flip": True}, ("content",)),
        ({"center_crop": True}, ("content", "size")),
        ({"interpolation_type": "nearest"}, ("content",)),
        ({"proportion_empty_prompts": 0.5}, ("prompt",)),
        ({"resolution": 8}, ("content", "size")),
    ],
    ids=str,
)
def test_an_option_changes_no_number_but_its_own(
    change: dict[str, Any], may_change: tuple[str, ...]
) -> None:
    records = noisy_records(10)
    plain, changed = make_data(records), make_data(records, **change)
    for index in range(10):
        assert_same(plain[2, index], changed[2, index], but=may_change)
    for name in set(may_change) - {"size"}:
        assert any(
            not torch.equal(plain[2, i].content.tensor, changed[2, i].content.tensor)
            if name == "content"
            else getattr(plain[2, i], name) != getattr(changed[2, i], name)
            for i in range(10)
        )


def test_noise_is_normal_and_uniforms_are_uniform() -> None:
    data = make_data(noisy_records(4))
    samples = [data[epoch, index] for epoch in range(100) for index in range(4)]
    noise = torch.stack([sample.noise for sample in samples])
    posterior = torch.stack([sample.posterior_noise for sample in samples])
    for values in (noise, posterior):
        assert (values.shape, values.dtype) == ((400, *LATENT), torch.float32)
        assert abs(values.mean()) < 0.03  # 24000 values: four standard errors
        assert abs(values.var() - 1) < 0.05
        assert abs((values.abs() < 1).float().mean() - 0.6827) < 0.015
        assert values.mean(0).abs().max() < 0.25  # every place of its own: 400 values
    assert abs((noise * posterior).mean()) < 0.03
    assert abs((noise[1:] * noise[:-1]).mean()) < 0.03
    time = np.array([sample.uniform_time for sample in samples])
    guidance = np.array([sample.uniform_guidance for sample in samples])
    for values in (time, guidance):
        assert 0 <= values.min() <= values.max() < 1
        steps = (np.arange(400) + 0.5) / 400
        assert np.abs(np.sort(values) - steps).max() < 0.1  # Kolmogorov: 1.95 / sqrt(400)
    assert abs(np.corrcoef(time, guidance)[0, 1]) < 0.2
    assert abs(np.corrcoef(time[1:], time[:-1])[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("proportion", "low", "high"), [(0.0, 0, 0), (0.3, 85, 155), (1.0, 400, 400)]
)
def test_the_asked_share_of_prompts_is_empty(proportion: float, low: int, high: int) -> None:
    data = make_data(noisy_records(4), proportion_empty_prompts=proportion)
    prompts = [data[epoch, index].prompt for epoch in range(100) for index in range(4)]
    assert low <= prompts.count("") <= high


def test_every_caption_of_a_list_is_drawn() -> None:
    data = make_data(noisy_records(1))
    counts = Counter(data[epoch, 0].prompt for epoch in range(300))
    assert set(counts) == {"one 0", "two 0", "three 0"}
    assert min(counts.values()) > 65  # 100 expected of each


# batches


def refs(
    samples: int,
    batch: int,
    accumulation: int = 1,
    process: tuple[int, int] = (0, 1),
    steps: range = range(6),
    seed: int = 3,
) -> list[list[tuple[int, int]]]:
    return list(
        StepSampler(
            [np.arange(samples)],
            batch,
            accumulation=accumulation,
            process=process,
            steps=steps,
            seed=seed,
        )
    )


def by_step(
    samples: int, processes: int, accumulation: int, batch: int, steps: range = range(6)
) -> list[Counter[tuple[int, int]]]:
    """What all processes together take in each step."""
    found: list[Counter[tuple[int, int]]] = [Counter() for _ in steps]
    for rank in range(processes):
        for i, group in enumerate(refs(samples, batch, accumulation, (rank, processes), steps)):
            found[i // accumulation].update(group)
    return found


DIVISIONS = [
    (p, a, 12 // (p * a))
    for p in (1, 2, 3, 4, 6, 12)
    for a in (1, 2, 3, 4, 6, 12)
    if 12 % (p * a) == 0
]


@pytest.mark.parametrize("samples", [5, 12, 31])
@pytest.mark.parametrize(("processes", "accumulation", "batch"), DIVISIONS)
def test_a_step_takes_the_same_samples_however_it_is_divided(
    samples: int, processes: int, accumulation: int, batch: int
) -> None:
    assert by_step(samples, processes, accumulation, batch) == by_step(samples, 1, 1, 12)


@pytest.mark.parametrize("samples", [1, 2, 5, 7, 8, 30])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_every_epoch_takes_every_record_once(samples: int, batch: int) -> None:
    epochs = 3
    steps = range(-(-epochs * samples // batch))
    stream = [ref for group in refs(samples, batch, steps=steps) for ref in group]
    for epoch in range(epochs):
        stretch = stream[epoch * samples : (epoch + 1) * samples]
        assert [e for e, _ in stretch] == [epoch] * samples
        assert sorted(index for _, index in stretch) == list(range(samples))


def test_every_epoch_and_every_seed_has_an_order_of_its_own() -> None:
    orders = [
        [i for _, i in refs(50, 50, steps=range(3), seed=seed)[epoch]]
        for seed in (0, 1)
        for epoch in range(3)
    ]
    assert len({tuple(order) for order in orders}) == 6
    assert list(range(50)) not in orders


@pytest.mark.parametrize("first", [0, 1, 5, 9, 10])
@pytest.mark.parametrize(("accumulation", "process"), [(1, (0, 1)), (3, (0, 1)), (2, (1, 3))])
def test_resuming_gives_the_rest_of_the_sequence(
    first: int, accumulation: int, process: tuple[int, int]
) -> None:
    whole = refs(7, 2, accumulation, process, range(10))
    assert refs(7, 2, accumulation, process, range(first, 10)) == whole[first * accumulation :]


@pytest.mark.parametrize(
    ("steps", "accumulation", "length"),
    [(range(6), 1, 6), (range(6), 4, 24), (range(4, 6), 3, 6), (range(0), 2, 0)],
)
def test_the_length_is_the_number_of_batches(steps: range, accumulation: int, length: int) -> None:
    sampler = StepSampler(
        [np.arange(5)], 2, accumulation=accumulation, process=(1, 2), steps=steps, seed=0
    )
    assert len(sampler) == len(list(sampler)) == length
    assert list(sampler) == list(sampler)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_fewer_samples_than_one_batch_are_taken_again(samples: int) -> None:
    groups = refs(samples, 10, steps=range(3))
    assert [len(group) for group in groups] == [10, 10, 10]
    stream = [ref for group in groups for ref in group]
    assert len(set(stream)) == 30  # the same record, in another epoch
    counts = Counter(index for _, index in stream)
    assert set(counts) == set(range(samples))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_collate_stacks_in_order() -> None:
    data = make_data(noisy_records(3))
    samples = [data[0, index] for index in (2, 0, 1)]
    batch = collate(samples)
    assert batch.keys == ["2.png", "0.png", "1.png"]
    assert batch.prompts == [sample.prompt for sample in samples]
    assert batch.sizes == [sample.size for sample in samples]
    assert batch.uniform_time.dtype == batch.uniform_guidance.dtype == torch.float32
    for i, sample in enumerate(samples):
        for name in ("noise", "posterior_noise"):
            assert torch.equal(getattr(batch, name)[i], getattr(sample, name))
        assert torch.equal(batch.content.tensor[i], sample.content.tensor)
        assert batch.uniform_time[i] == np.float32(sample.uniform_time)
        assert batch.uniform_guidance[i] == np.float32(sample.uniform_guidance)


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    data = make_data(load(write_images(tmp_path, count=5)), **OPTIONS)

    def batches(workers: int, global_seed: int) -> list[SampleBatch]:
        torch.manual_seed(global_seed)
        sampler = StepSampler(
            [np.arange(5)], 2, accumulation=2, process=(0, 1), steps=range(3), seed=0
        )
        return list(
            DataLoader(data, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
        )

    alone, shared = batches(0, 0), batches(2, 1)
    assert len(alone) == len(shared) == 6
    for a, b in zip(alone, shared, strict=True):
        assert_same(a, b)


def test_a_folder_of_links_is_a_folder_of_images(tmp_path: Path) -> None:
    store = write_images(tmp_path / "store", count=3)
    (tmp_path / "links").mkdir()
    for path in store.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    records = load_records(DataConfig(train_data_dir=str(tmp_path / "links")))
    assert [record.key for record in records] == ["0.png", "1.png", "2.png"]
    assert records[0].captions == ("picture 0",)


def test_replaced_images_change_the_fingerprint(tmp_path: Path) -> None:
    folder = write_images(tmp_path, count=2)
    before = fingerprint(load_records(DataConfig(train_data_dir=str(folder))))
    Image.new("RGB", (16, 16)).save(folder / "0.png")
    assert fingerprint(load_records(DataConfig(train_data_dir=str(folder)))) != before


def test_an_image_column_without_images_is_named(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"image": [1, 2], "text": ["a", "b"]}).save_to_disk(
        str(tmp_path / "rows")
    )
    with pytest.raises(ValueError, match=r"column 'image' of .* holds no images"):
        load_records(DataConfig(dataset_name=str(tmp_path / "rows")))
