"""What is kept of a source, and what is dropped, counted and named."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.folders import (
    CAPTIONS,
    break_file,
    kept_and_dropped,
    load_folder,
    make_folder,
    save_image,
    write_captions,
)
from tests.support.samples import captions_of


def test_max_train_samples_takes_the_first(tmp_path: Path) -> None:
    make_folder(tmp_path)
    assert [record.key for record in load_folder(tmp_path, max_train_samples=2)] == [
        "a.png",
        "b.png",
    ]
    assert len(load_folder(tmp_path, max_train_samples=99)) == 3


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
    assert [record.key for record in load_folder(tmp_path)] == ["0.png", "1.png", "2.png", "3.png"]
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
    load_folder(make_folder(tmp_path))
    assert "kept 3 " in kept_and_dropped(caplog)
    assert "dropped: nothing" in kept_and_dropped(caplog)


@pytest.mark.parametrize("damage", ["text", "empty", "half"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_unreadable_files_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, suffix: str
) -> None:
    caplog.set_level(logging.INFO)
    make_folder(tmp_path, ".txt", {f"{i}{suffix}": f"picture {i}" for i in range(4)})
    for i in (1, 2):
        break_file(tmp_path / f"{i}{suffix}", damage)
    assert captions_of(load_folder(tmp_path)) == {
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
    assert captions_of(load_folder(tmp_path)) == {"a.png": ("one",)}
    assert "1 unreadable" in kept_and_dropped(caplog)
    (warning,) = [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ]
    assert (
        "skipping b.png, which cannot be read as an image (PNG, JPEG, WEBP, BMP, TIFF): its "
        "content is none of these" in warning
    )


def test_when_every_file_is_unreadable_the_error_names_the_fix(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for name in CAPTIONS:
        break_file(tmp_path / name, "half")
    with pytest.raises(
        ValueError, match=r"no usable sample.*3 unreadable.*Replace the files"
    ) as error:
        load_folder(tmp_path)
    assert str(tmp_path) in str(error.value)
