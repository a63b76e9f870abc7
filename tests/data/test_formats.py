"""Formats that Pillow reads where it can, or where a plugin is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, features

from lcm.data import formats
from lcm.data.config import DataConfig
from lcm.data.load import load_data
from lcm.data.pictures import survey
from lcm.data.records import Record
from lcm.system.processes import Team
from tests.support.pictures import RED, encoded, plain
from tests.support.samples import captions_of, write_members
from tests.support.tars import load_tar

PLUGINS = {"HEIF": "pillow_heif", "AVIF": "pillow_avif", "JXL": "pillow_jxl"}
HEIC = b"\x00\x00\x00\x18ftypheic" + bytes(60)
"""How a photograph of a telephone begins."""


@pytest.fixture(autouse=True)
def found_anew() -> Iterator[None]:
    formats.added.cache_clear()
    yield
    formats.added.cache_clear()


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose Pillow reads none of them, without plugins."""
    monkeypatch.setattr(features, "get_supported", list)
    for module in PLUGINS.values():
        monkeypatch.setitem(sys.modules, module, None)  # to import it fails


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("name", "content", "package"),
    [
        ("a.HEIC", HEIC, "pillow-heif"),
        ("a.avif", b"", "pillow-avif-plugin"),
        ("a.jxl", b"", "pillow-jxl-plugin"),
        ("a.jpg", HEIC, "pillow-heif"),
        ("a.png", HEIC.replace(b"heic", b"avif"), "pillow-avif-plugin"),
        ("a.webp", b"\xff\x0a" + bytes(60), "pillow-jxl-plugin"),
    ],
)
@pytest.mark.parametrize("source", ["folder", "tar"])
def test_without_a_plugin_the_package_to_install_is_named(
    tmp_path: Path, name: str, content: bytes, package: str, source: str
) -> None:
    members = [(name, content), ("a.txt", b"x"), ("b.png", encoded(plain(RED))), ("b.txt", b"y")]
    if source == "tar":
        data = load_tar(write_members(tmp_path / "x.tar", members))
    else:
        for file, written in members:
            (tmp_path / file).write_bytes(written)
        data = load_data(DataConfig(train_data_dir=str(tmp_path)))
    assert len(data.records) == 1
    (one,) = data.dropped.left_out()
    assert f"pip install {package} to read it" in one.why


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_what_pillow_reads_is_read(tmp_path: Path) -> None:
    plain(RED, size=(16, 16)).save(tmp_path / "a.AVIF", "AVIF", quality=95)
    plain(RED, size=(16, 16)).save(tmp_path / "b.jpg", "AVIF", quality=95)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("x")
    data = load_data(DataConfig(train_data_dir=str(tmp_path)))
    assert list(captions_of(data.records)) == ["a.AVIF", "b.jpg"]
    red, green, blue = data.records[0].image().getpixel((5, 5))
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.usefixtures("bare")
def test_what_a_plugin_reads_is_read_once_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what an earlier run has found unreadable and remembers."""
    path = tmp_path / "a.heic"
    path.write_bytes(HEIC)
    notes = tmp_path / "notes"
    notes.mkdir()
    record = Record("a.jpg", ("x",), lambda: path, stamp="stamp")
    (before,) = survey([record], Team(), notes)
    assert "pillow-heif" in before.error and survey([record], Team(), notes) == [before]
    plugin = ModuleType("pillow_heif")

    def register_heif_opener() -> None:
        def open_it(file: object, name: str = "") -> Image.Image:
            return plain(RED)

        Image.register_open("HEIF", open_it, lambda head: head[4:8] == b"ftyp")

    plugin.register_heif_opener = register_heif_opener  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    formats.added.cache_clear()
    assert ".heic" in formats.readable_suffixes() and "HEIF" in formats.readable_formats()
    (after,) = survey([record], Team(), notes)
    assert (after.reason, after.width, after.height) == ("", 6, 5)
