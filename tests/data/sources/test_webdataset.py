"""Tar shards: what a sample is, and reading it in place."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcm.data.batch import collate
from lcm.data.config import DataConfig
from lcm.data.load import load_records
from lcm.data.sampler import StepSampler
from tests.support.pictures import BLUE, GREEN, RED
from tests.support.samples import THREE, captions_of, write_members
from tests.support.squares import square_data
from tests.support.tars import PICTURE, load_tar, shard


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("files", "captions"),
    [
        ({"txt": b"one"}, ("one",)),
        ({"txt": "\ufeffgrößer\r\n\n zwei ".encode()}, ("größer", "zwei")),
        ({"caption": b"one"}, ("one",)),
        ({"txt": b"from txt", "caption": b"from caption"}, ("from txt",)),
        ({"json": text({"text": "one"})}, ("one",)),
        ({"json": text({"text": ["one", "", None, "two"]})}, ("one", "two")),
        ({"json": b"\xef\xbb\xbf" + text({"text": "one"})}, ("one",)),
        ({"txt": b"from txt", "json": text({"text": "from json"})}, ("from txt",)),
        ({"txt": b" \n", "json": text({"text": "from json"})}, ("from json",)),
        ({"txt": b"from txt", "json": b"{"}, ("from txt",)),
        ({"TXT": b"one", "cls": b"7", "npy": b"\x00", "seg.png": PICTURE}, ("one",)),
    ],
    ids=str,
)
def test_captions_come_from_txt_and_else_from_json(
    tmp_path: Path, files: dict[str, bytes], captions: tuple[str, ...]
) -> None:
    tar = write_members(
        tmp_path / "x.tar",
        [("a.jpg", PICTURE), *((f"a.{extension}", data) for extension, data in files.items())],
    )
    assert captions_of(load_tar(tar).records) == {"x.tar/a": captions}


def test_another_field_of_the_json(tmp_path: Path) -> None:
    tar = write_members(
        tmp_path / "x.tar", [("a.jpg", PICTURE), ("a.json", text({"text": "no", "seen": "yes"}))]
    )
    assert captions_of(load_tar(tar, caption_column="seen").records) == {"x.tar/a": ("yes",)}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"txt": b"x"}, "without an image"),
        ({"txt": b"x", "big.jpg": PICTURE}, "without an image"),
        ({"txt": b"x", "jpg": PICTURE, "png": PICTURE}, "with several images"),
        ({"txt": b"x", "gif": PICTURE}, "in another format than PNG, JPEG, WEBP, BMP, TIFF"),
        ({"jpg": PICTURE}, "without a caption"),
        ({"jpg": PICTURE, "json": text({"caption": "x"})}, "without a caption"),
        ({"jpg": PICTURE, "json": text(["x"])}, "without a caption"),
        ({"jpg": PICTURE, "json": text({"text": 7})}, "without a caption"),
        ({"jpg": PICTURE, "json": b"{'text': 'x'}"}, "with a .json that is no JSON"),
        ({"jpg": PICTURE, "json": b"\xff\xfe"}, "with a .json that is no JSON"),
        ({"jpg": PICTURE, "json": b"[" * 200_000}, "with a .json that is no JSON"),
        ({"jpg": PICTURE, "JPG": PICTURE, "txt": b"x"}, "named twice in a tar"),
        ({"jpg": PICTURE, "txt": b"caf\xe9"}, "with captions that are not UTF-8"),
        ({"jpg": b"", "txt": b"x"}, "unreadable"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_is_no_sample_is_counted_by_its_reason(
    tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    members = [
        ("good.png", PICTURE),
        ("good.txt", b"x"),
        *((f"bad.{extension}", data) for extension, data in files.items()),
    ]
    data = load_tar(
        write_members(tmp_path / "x.tar", [*members, ("last.png", PICTURE), ("last.txt", b"y")])
    )
    assert (list(captions_of(data.records)), data.dropped) == (
        ["x.tar/good", "x.tar/last"],
        {reason: 1},
    )


def test_keys_end_at_the_first_dot_of_the_file_name(tmp_path: Path) -> None:
    names = ["a", "./b", "v1.5/c", "v1.5/d e", "..hidden", "deep/.hidden", "größer 貓"]
    members = [
        (f"{name}.{extension}", data)
        for name in names
        for extension, data in (("png", PICTURE), ("txt", b"x"))
    ]
    data = load_tar(
        write_members(
            tmp_path / "x.tar", [*members, ("README", b"no sample"), ("LICENSE.", b"no sample")]
        )
    )
    assert list(captions_of(data.records)) == [
        f"x.tar/{key}" for key in ("a", "b", "v1.5/c", "v1.5/d e", "größer 貓")
    ]
    assert data.dropped == {}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_files_of_a_sample_may_lie_apart_under_long_names(tmp_path: Path, kind: int) -> None:
    names = [f"{'d' * 60}/{'f' * 70}{i}" for i in range(3)]
    pictures = [(f"{name}.png", example.data) for name, example in zip(names, THREE, strict=True)]
    texts = [(f"{name}.txt", f"text {i}".encode()) for i, name in enumerate(names)]
    records = load_tar(
        write_members(tmp_path / "x.tar", [*pictures, *reversed(texts)], kind)
    ).records
    assert [record.captions for record in records] == [("text 0",), ("text 1",), ("text 2",)]
    assert [record.image().getpixel((0, 0)) for record in records] == [RED, GREEN, BLUE]
    assert [record.size for record in records] == [len(example.data) for example in THREE]


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs the tar command")
def test_a_tar_of_the_tar_command(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i, example in enumerate(THREE):
        (tmp_path / "in" / f"{i}.png").write_bytes(example.data)
        (tmp_path / "in" / f"{i}.txt").write_text(f"text {i}")
    subprocess.run(["tar", "-cf", str(tmp_path / "x.tar"), "-C", str(tmp_path), "in"], check=True)
    data = load_tar(tmp_path / "x.tar")
    colors = {record.captions: record.image().getpixel((0, 0)) for record in data.records}
    assert colors == {("text 0",): RED, ("text 1",): GREEN, ("text 2",): BLUE}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_records_are_small_and_keep_no_file_open(tmp_path: Path) -> None:
    tar = shard(tmp_path / "x.tar")
    records = load_tar(tar).records
    for record in records:
        record.image()
        assert len(pickle.dumps(record)) < 500
    assert tar.resolve() not in [entry.resolve() for entry in Path("/proc/self/fd").iterdir()]


def test_a_copy_in_another_process_reads_the_same(tmp_path: Path) -> None:
    """As a worker gets one where processes are not forked."""
    config = DataConfig(webdataset=str(shard(tmp_path / "x.tar")))
    data = square_data(load_records(config), 16, (4, 2, 2))
    sampler = StepSampler([np.arange(4)], 4, accumulation=1, process=(0, 1), steps=range(1), seed=0)
    refs = next(iter(sampler))
    expected = collate([data[ref] for ref in refs])
    copy = pickle.loads(pickle.dumps(data))  # after the first has opened its files
    batch = collate([copy[ref] for ref in refs])
    assert batch.keys == expected.keys
    assert (batch.content.tensor == expected.content.tensor).all()
