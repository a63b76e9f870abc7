"""Tar shards: what a sample is, what is kept of a damaged tar, and that nothing but bytes in place
is ever read.
"""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
import pickle
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from lcm.data.batch import collate
from lcm.data.config import DataConfig
from lcm.data.load import load_data, load_records
from lcm.data.loaded import LoadedData
from lcm.data.sampler import StepSampler
from lcm.data.sources.files import expand_braces, find_files
from tests.support.pictures import BLUE, GREEN, RED, encoded, plain
from tests.support.samples import THREE, captions_of, write_members
from tests.support.squares import square_data

PICTURE = THREE[0].data


def load(tar: Path | str, **changes: Any) -> LoadedData:
    return load_data(DataConfig(webdataset=str(tar), **changes))


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


# what a sample is


@pytest.mark.parametrize(
    ("files", "captions"),
    [
        ({"txt": b"one"}, ("one",)),
        ({"txt": "\ufeffgrößer\r\n\n zwei ".encode()}, ("größer", "zwei")),
        ({"txt": b"caf\xe9"}, ("caf\ufffd",)),
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
    assert captions_of(load(tar).records) == {"x.tar/a": captions}


def test_another_field_of_the_json(tmp_path: Path) -> None:
    tar = write_members(
        tmp_path / "x.tar", [("a.jpg", PICTURE), ("a.json", text({"text": "no", "seen": "yes"}))]
    )
    assert captions_of(load(tar, caption_column="seen").records) == {"x.tar/a": ("yes",)}


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
    data = load(
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
    data = load(
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
    records = load(write_members(tmp_path / "x.tar", [*pictures, *reversed(texts)], kind)).records
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
    data = load(tmp_path / "x.tar")
    colors = {record.captions: record.image().getpixel((0, 0)) for record in data.records}
    assert colors == {("text 0",): RED, ("text 1",): GREEN, ("text 2",): BLUE}


# reading in place


def shard(path: Path, count: int = 4) -> Path:
    """Samples `<i>.png` with the text `text <i>`, whose pictures are all different."""
    members = []
    for i in range(count):
        members += [
            (f"{i}.png", encoded(plain((i, 0, 0), size=(40, 30)))),
            (f"{i}.txt", f"text {i}".encode()),
        ]
    return write_members(path, members)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_records_are_small_and_keep_no_file_open(tmp_path: Path) -> None:
    tar = shard(tmp_path / "x.tar")
    records = load(tar).records
    for record in records:
        record.image()
        assert len(pickle.dumps(record)) < 500
    assert tar.resolve() not in [entry.resolve() for entry in Path("/proc/self/fd").iterdir()]


def test_a_spawned_worker_reads_the_same(tmp_path: Path) -> None:
    config = DataConfig(webdataset=str(shard(tmp_path / "x.tar")))
    data = square_data(load_records(config), 16, (4, 2, 2))
    sampler = StepSampler([np.arange(4)], 4, accumulation=1, process=(0, 1), steps=range(1), seed=0)
    loader = DataLoader(
        data,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    (batch,) = loader
    expected = collate([data[ref] for ref in next(iter(sampler))])
    assert batch.keys == expected.keys
    assert (batch.content.tensor == expected.content.tensor).all()


# damaged and hostile tars


def complete_samples(tar: Path, length: int) -> list[str]:
    """What is wholly within the first bytes, by the standard library's account of the whole tar."""
    with tarfile.open(tar) as archive:
        ends = {member.name: member.offset_data + member.size for member in archive}
    return [
        f"x.tar/{i}"
        for i in range(len(ends) // 2)
        if max(ends[f"{i}.png"], ends[f"{i}.txt"]) <= length
    ]


def test_of_a_tar_that_is_cut_short_anywhere_the_complete_samples_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = shard(tmp_path / "x.tar")
    data, tar = whole.read_bytes(), tmp_path / "cut" / "x.tar"
    tar.parent.mkdir()
    with tarfile.open(whole) as archive:
        headers = [
            member.offset + tarfile.BLOCKSIZE for member in archive if member.name.endswith(".png")
        ]
        last = archive.getmembers()[-1]
    end = last.offset_data + tarfile.BLOCKSIZE  # of the last sample; the mark follows
    first_sample = headers[0] + 2 * tarfile.BLOCKSIZE + len("text 0")
    cuts = [
        *range(first_sample, end, 333),
        *(header + extra for header in headers[1:] for extra in (-512, -511, -1, 0, 1)),
        end,
    ]
    for cut in cuts:
        tar.write_bytes(data[:cut])
        caplog.clear()
        found = load(tar)
        expected = complete_samples(whole, cut)
        assert list(captions_of(found.records)) == expected, cut
        begun = sum(header <= cut for header in headers)
        torn = begun - len(expected)
        assert found.dropped == ({"cut off at the end of a tar": torn} if torn else {}), cut
        warnings = [
            record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
        ]
        assert [str(tar) in warning and "cut short" in warning for warning in warnings] == [True]
        for record in found.records:
            assert record.image().getpixel((0, 0)) == (int(record.key[-1]), 0, 0)


def test_a_whole_tar_is_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(load(shard(tmp_path / "x.tar")).records) == 4
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_damaged_header_ends_what_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tar = shard(tmp_path / "x.tar")
    with tarfile.open(tar) as archive:
        where = archive.getmember("2.txt").offset
    data = bytearray(tar.read_bytes())
    data[where : where + 10] = b"0123456789"
    tar.write_bytes(data)
    found = load(tar)
    assert list(captions_of(found.records)) == ["x.tar/0", "x.tar/1"]
    assert found.dropped == {"cut off at the end of a tar": 1}
    assert "damaged" in caplog.text


def test_a_tar_that_leads_round_in_a_circle_ends(tmp_path: Path) -> None:
    info = tarfile.TarInfo("loop.png")
    info.size = -1024
    loop = info.tobuf(tarfile.GNU_FORMAT)
    whole = shard(tmp_path / "x.tar", 2).read_bytes()
    with tarfile.open(tmp_path / "x.tar") as archive:
        end = archive.getmembers()[-1].offset_data + tarfile.BLOCKSIZE
    (tmp_path / "x.tar").write_bytes(whole[:end] + loop + whole[end:])
    found: list[LoadedData] = []
    thread = threading.Thread(target=lambda: found.append(load(tmp_path / "x.tar")), daemon=True)
    thread.start()
    thread.join(30)
    assert [len(data.records) for data in found] == [2]


def test_names_and_links_in_a_tar_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(plain(BLUE)))
    tar = tmp_path / "in" / "x.tar"
    tar.parent.mkdir()
    members = [
        ("../../up.png", PICTURE),
        ("../../up.txt", b"up"),
        ("/abs.png", PICTURE),
        ("/abs.txt", b"abs"),
    ]
    write_members(tar, [*members, ("hard.txt", b"hard"), ("soft.txt", b"soft")])
    with tarfile.open(tar, "a") as archive:
        for name, kind in (("soft.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret)
            archive.addfile(info)
    before = sorted(tmp_path.rglob("*"))
    data = load(tar)
    assert captions_of(data.records) == {"x.tar/../../up": ("up",), "x.tar//abs": ("abs",)}
    assert [record.image().getpixel((0, 0)) for record in data.records] == [RED, RED]
    assert data.dropped == {"without an image": 2}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz"])
@pytest.mark.parametrize(
    ("compress", "command"),
    [(gzip.compress, "gunzip"), (bz2.compress, "bunzip2"), (lzma.compress, "unxz")],
)
def test_compressed_tars_are_refused_with_what_undoes_it(
    tmp_path: Path, name: str, compress: Any, command: str
) -> None:
    (tmp_path / name).write_bytes(compress(shard(tmp_path / "whole.tar").read_bytes()))
    with pytest.raises(
        ValueError, match=rf"webdataset: .*{name} is compressed.*unpack it with {command}$"
    ):
        load(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [b"", b"no tar", b"no tar" * 1000, bytes(100)],
    ids=["empty", "short", "text", "zeros"],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"webdataset: .*x\.tar is no tar .*; download it again or leave it out"
    ):
        load(tmp_path / "x.tar")


def test_a_tar_without_samples_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.tar gives no usable sample"):
        load(write_members(tmp_path / "x.tar", []))


# which files


@pytest.mark.skipif(shutil.which("bash") is None, reason="compares with bash")
@pytest.mark.parametrize(
    "pattern",
    [
        "a.tar",
        "{0..3}.tar",
        "{000..012}.tar",
        "{8..11}",
        "{08..11}",
        "{3..1}",
        "x{a,b}y{1..2}",
        "x{,a}",
        "{abc}",
        "{a..c,d}",
    ],
)
def test_brace_patterns_are_those_of_the_shell(pattern: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True
    )
    assert list(expand_braces(pattern)) == done.stdout.split("\n")[:-1]


def test_shards_are_found_by_folder_glob_and_braces_under_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        shard(tmp_path / f"0{i}.tar", 1)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "._00.tar").write_text("what a Mac leaves behind")
    keys = [f"0{i}.tar/0" for i in range(3)]
    for where in ("", "/", "/*.tar", "/0?.tar", "/{00..02}.tar", "/0{0,1,2}.tar"):
        assert list(captions_of(load(f"{tmp_path}{where}").records)) == keys, where
    monkeypatch.chdir(tmp_path)
    for where in (".", "*.tar", "./{00..02}.tar", "{00..02}.tar"):
        assert list(captions_of(load(where).records)) == keys, where
    assert list(captions_of(load("01.tar").records)) == keys[1:2]
    assert list(captions_of(load("{02,00,02}.tar").records)) == [keys[2], keys[0]]


def test_sub_folders_are_part_of_the_name(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        shard(tmp_path / name / "x.tar", 1)
    assert list(captions_of(load(tmp_path).records)) == ["a/x.tar/0", "b/x.tar/0"]
    assert list(captions_of(load(tmp_path / "{a,b}" / "x.tar").records)) == [
        "a/x.tar/0",
        "b/x.tar/0",
    ]


@pytest.mark.parametrize(
    "where", ["{00..03}.tar", "0[5-9].tar", "absent.tar", "absent/", "{a,00}.tar"]
)
def test_every_part_of_a_pattern_that_matches_nothing_is_named(tmp_path: Path, where: str) -> None:
    for i in range(3):
        shard(tmp_path / f"0{i}.tar", 1)
    with pytest.raises(
        FileNotFoundError,
        match=r"webdataset: there is no file .*(03|0\[5-9\]|absent|a\.tar).*pass a \.tar file",
    ):
        load(f"{tmp_path}/{where}")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    shard(tmp_path / "x[1]{a,b}*.tar", 1)
    assert find_files("webdataset", str(tmp_path / "x[1]{a,b}*.tar"), ".tar") == (
        tmp_path,
        [tmp_path / "x[1]{a,b}*.tar"],
    )
