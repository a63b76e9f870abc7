"""Folders of captioned images, sound and broken, and how they are read."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcm.data.config import DataConfig
from lcm.data.load import load_records
from lcm.data.records import Record

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


def load_folder(folder: Path, **changes: Any) -> list[Record]:
    return load_records(DataConfig(train_data_dir=str(folder), **changes))


def kept_and_dropped(caplog: pytest.LogCaptureFixture) -> str:
    lines = [record.getMessage() for record in caplog.records if "kept" in record.getMessage()]
    assert len(lines) == 1
    return lines[0]


def break_file(path: Path, damage: str) -> None:
    if damage == "text":
        path.write_text("this is no picture")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
