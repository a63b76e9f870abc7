"""Tar shards that are cut short, damaged or hostile."""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from lcm.data.loaded import LoadedData
from tests.support.pictures import BLUE, RED, encoded, plain
from tests.support.samples import captions_of, write_members
from tests.support.tars import PICTURE, load_tar, shard


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
        found = load_tar(tar)
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
    assert len(load_tar(shard(tmp_path / "x.tar")).records) == 4
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
    found = load_tar(tar)
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
    thread = threading.Thread(
        target=lambda: found.append(load_tar(tmp_path / "x.tar")), daemon=True
    )
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
    data = load_tar(tar)
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
        load_tar(tmp_path / name)


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
        load_tar(tmp_path / "x.tar")


def test_a_tar_without_samples_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.tar gives no usable sample"):
        load_tar(write_members(tmp_path / "x.tar", []))
