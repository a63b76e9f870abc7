"""Captions are read as they were written, or left out by name: the same in every file of texts."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from lcm.data.config import DataConfig
from lcm.data.dropped import Dropped
from lcm.data.load import load_data
from tests.support.samples import THREE, write_members, write_rows

datasets.disable_progress_bars()

PICTURE = THREE[0].data


@dataclass(frozen=True)
class Encoding:
    """A text as some program saves it: between a mark and what should not be there."""

    name: str
    text: str
    mark: bytes = b""
    tail: bytes = b""

    def encode(self, text: str) -> bytes:
        return self.mark + text.encode(self.name) + self.tail


READ = {
    "ascii": Encoding("ascii", "a plain cat"),
    "utf-8": Encoding("utf-8", "a cat\u2019s café 猫 \U0001f408"),
    "utf-8 with a mark": Encoding("utf-8", "größer", codecs.BOM_UTF8),
    "utf-16 little": Encoding("utf-16-le", "a cat\u2019s café 猫", codecs.BOM_UTF16_LE),
    "utf-16 big": Encoding("utf-16-be", "кот \U0001f408", codecs.BOM_UTF16_BE),
}
LEFT_OUT = {
    "windows": Encoding("cp1252", "a cat\u2019s café"),
    "latin": Encoding("latin-1", "größer"),
    "chinese": Encoding("gbk", "红猫"),
    "traditional": Encoding("big5", "紅貓"),
    "japanese": Encoding("shift_jis", "猫が"),
    "japanese in ascii": Encoding("iso2022_jp", "猫が"),
    "korean": Encoding("euc-kr", "고양이"),
    "russian": Encoding("koi8-r", "кот"),
    "utf-16 without a mark": Encoding("utf-16-le", "a cat"),
    "utf-32": Encoding("utf-32-le", "a cat", codecs.BOM_UTF32_LE),
    "utf-16 cut short": Encoding("utf-16-le", "a cat", codecs.BOM_UTF16_LE, b"x"),
}

Write = Callable[[Path, Encoding], dict[str, Any]]
"""Writes a sample with this caption, and a good one; returns the flags that read them."""


def beside(name: str, form: str = "{}") -> Write:
    """In a file of this name in the folder of a picture a.png."""

    def write(folder: Path, encoding: Encoding) -> dict[str, Any]:
        for picture in ("a.png", "good.png"):
            (folder / picture).write_bytes(PICTURE)
        (folder / "good.txt").write_text("good")
        (folder / name).write_bytes(encoding.encode(form.replace("{}", encoding.text)))
        return {"train_data_dir": folder}

    return write


def in_tar(name: str, form: str = "{}") -> Write:
    def write(folder: Path, encoding: Encoding) -> dict[str, Any]:
        content = encoding.encode(form.replace("{}", encoding.text))
        members = [("a.png", PICTURE), (name, content), ("b.png", PICTURE), ("b.txt", b"good")]
        return {"webdataset": write_members(folder / "x.tar", members)}

    return write


def in_parquet(kind: Any) -> Write:
    """In a column whose bytes nobody has looked at."""

    def write(folder: Path, encoding: Encoding) -> dict[str, Any]:
        text = encoding.encode(encoding.text)
        offsets = pa.array([0, len(text), len(text) + 4], pa.int32()).buffers()[1]
        texts = pa.Array.from_buffers(kind, 2, [None, offsets, pa.py_buffer(text + b"good")])
        images = pa.array([PICTURE] * 2, pa.binary())
        path = write_rows(folder / "x.parquet", images, texts)
        return {"parquet_files": path, "cache_dir": folder / "cache"}

    return write


def as_prompts(folder: Path, encoding: Encoding) -> dict[str, Any]:
    (folder / "prompts.txt").write_bytes(encoding.encode(f"{encoding.text}\ngood\n"))
    return {"prompts_file": folder / "prompts.txt"}


ROW = json.dumps({"file_name": "a.png", "text": "{}"}) + "\n"
CARRIERS: dict[str, Write] = {
    **{name: beside(name) for name in ("a.txt", "a.caption", "a.TXT")},
    "metadata.jsonl": beside("metadata.jsonl", ROW),
    "metadata.csv": beside("metadata.csv", "file_name,text\na.png,{}\n"),
    **{f"tar {name}": in_tar(name) for name in ("a.txt", "a.caption", "a.TXT")},
    "tar a.json": in_tar("a.json", json.dumps({"text": "{}"})),
    "parquet": in_parquet(pa.binary()),
    "parquet text": in_parquet(pa.string()),
    "prompts": as_prompts,
}
REFUSED = {"metadata.jsonl", "metadata.csv", "prompts"}
"""Files of many captions: all of them are, by the name of the file."""


def load(folder: Path, carrier: str, encoding: Encoding) -> tuple[list[str], list[str]]:
    """The captions that were kept, and the names of what was left out."""
    flags = CARRIERS[carrier](folder, encoding)
    data = load_data(DataConfig(**{name: str(value) for name, value in flags.items()}))
    assert isinstance(data.dropped, Dropped)
    captions = [caption for record in data.records for caption in record.captions]
    return captions, [f"{one.file} {one.why}" for one in data.dropped.left_out()]


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_text_that_says_what_it_is_is_read(tmp_path: Path, carrier: str, name: str) -> None:
    if carrier == "parquet text" and name.startswith("utf-16"):
        pytest.skip("the texts of parquet are UTF-8")
    captions, left_out = load(tmp_path, carrier, READ[name])
    assert (sorted(captions), left_out) == (sorted([READ[name].text, "good"]), [])


@pytest.mark.parametrize("name", LEFT_OUT)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_any_other_is_left_out_by_name(tmp_path: Path, carrier: str, name: str) -> None:
    if carrier in REFUSED:
        with pytest.raises(ValueError, match=r"(\.jsonl|\.csv|prompts\.txt) is not UTF-"):
            load(tmp_path, carrier, LEFT_OUT[name])
        return
    captions, left_out = load(tmp_path, carrier, LEFT_OUT[name])
    assert captions == ["good"]
    (one,) = left_out
    assert one.startswith(("a.png", "x.tar/a", "x.parquet[0]")) and "is not UTF-" in one


def test_a_file_too_long_for_a_caption_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcm.data.captions.MOST_BYTES", 99)
    monkeypatch.setattr("lcm.data.sources.webdataset.MOST_BYTES", 99)
    for carrier in ("a.txt", "tar a.caption"):
        (tmp_path / carrier).mkdir()
        captions, left_out = load(tmp_path / carrier, carrier, Encoding("ascii", "long " * 20))
        assert captions == ["good"] and "too much for a caption" in left_out[0]
