"""Data sets as `datasets` reads them, and the files that their tables may name."""

from __future__ import annotations

import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from lcm.data.config import DataConfig
from lcm.data.load import load_records
from tests.support.folders import break_file, kept_and_dropped, make_folder, save_image


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


def make_paths(tmp_path: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Files that a table may name, inside and outside of `folder`."""
    inside = save_image(folder / "in" / "a.png")
    outside = save_image(tmp_path / "outside" / "b.png")
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


def test_an_image_column_without_images_is_named(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"image": [1, 2], "text": ["a", "b"]}).save_to_disk(
        str(tmp_path / "rows")
    )
    with pytest.raises(ValueError, match=r"column 'image' of .* holds no images"):
        load_records(DataConfig(dataset_name=str(tmp_path / "rows")))
