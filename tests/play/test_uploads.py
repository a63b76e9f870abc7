"""Files that come from a browser: what they are is said before they are attached, and none of their
names leads anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lcm.adapter.files import AdapterError
from lcm.adapter.names import PICKLED
from lcm.play.studio import Studio
from lcm.play.uploads import KEPT, Dropped, TooLargeError, Uploads
from tests.support.hostile import pickled
from tests.support.playground import drawing, make_stage
from tests.support.verbs import deltas, equal


def dropped(uploads: Uploads, name: str, *parts: bytes) -> Dropped:
    async def stream() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return asyncio.run(uploads.receive(name, stream()))


def looked(uploads: Uploads, path: Path, stage: Any = None, name: str = "x.safetensors") -> Any:
    return uploads.look(dropped(uploads, name, path.read_bytes()), stage)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd.safetensors",
        "..\\..\\x.safetensors",
        "/etc/x.safetensors",
        "\u202e\x1b[31m\0.safetensors",
        "x" * 5000 + ".safetensors",
        ".safetensors",
        "con.SAFETENSORS",
    ],
)
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    found = dropped(Uploads(ours), name, b"x")
    assert files(tmp_path) == [found.path] and found.path.parent.parent == ours
    assert found.path.name.isascii() and found.name.isprintable() and len(found.name) <= 120


@pytest.mark.parametrize("name", ["x.txt", "", "safetensors", *(f"x{end}" for end in PICKLED)])
def test_what_is_no_safetensors_file_is_not_even_stored(name: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"pickle|no \.safetensors file"):
        dropped(Uploads(tmp_path), name, b"x")
    assert files(tmp_path) == []


def test_too_large_a_file_leaves_nothing_behind(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, largest=1 << 20)
    with pytest.raises(TooLargeError, match="max_upload"):
        dropped(uploads, "x.safetensors", *[b"x" * (1 << 19)] * 3)
    assert list(tmp_path.iterdir()) == []
    for number in range(KEPT + 3):
        dropped(uploads, f"{number}.safetensors", b"x")
    assert len(files(tmp_path)) == KEPT


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x08" + b"\0" * 7 + b"{}      ", b"PK\x03\x04" * 9]
)
def test_a_damaged_file_is_one_sentence_without_our_folder(content: bytes, tmp_path: Path) -> None:
    found = Uploads(tmp_path).look(dropped(Uploads(tmp_path), "x.safetensors", content), None)
    assert not found["fits"] and not found["can_be_mended"]
    assert "x.safetensors" in found["error"] and str(tmp_path) not in found["error"]


def test_a_pickle_by_another_name_is_not_opened(tmp_path: Path) -> None:
    pickled(tmp_path / "x.safetensors")
    uploads = Uploads(tmp_path)
    assert "pickle" in looked(uploads, tmp_path / "x.safetensors")["error"]


def test_a_broken_file_is_offered_a_repair_that_fits(
    broken: Path, style: Path, sdxl_adapter: Path, tmp_path: Path
) -> None:
    stage, uploads = make_stage(), Uploads(tmp_path)
    found = looked(uploads, broken, stage, "bad.safetensors")
    assert not found["fits"] and found["can_be_mended"] and str(tmp_path) not in str(found)
    mended = uploads.mend(found["key"])
    assert equal(deltas(mended.path), deltas(broken), 1e-3)
    assert uploads.look(mended, stage)["fits"]
    sound = looked(uploads, style, stage)
    assert sound["fits"] and not sound["can_be_mended"] and not sound["has_recipe"]
    with pytest.raises(ValueError, match="nothing that can be repaired"):
        uploads.mend(sound["key"])
    other = looked(uploads, sdxl_adapter / "pytorch_lora_weights.safetensors", stage)
    assert not other["fits"] and not other["can_be_mended"] and other["has_recipe"]


def test_only_what_lies_in_the_named_folders_is_listed_and_picked(
    style: Path, tmp_path: Path
) -> None:
    folder, outside = tmp_path / "mine", tmp_path / "outside.safetensors"
    (folder / "sub").mkdir(parents=True)
    outside.write_bytes(style.read_bytes())
    (folder / "sub" / "ink.safetensors").write_bytes(style.read_bytes())
    (folder / "out.safetensors").symlink_to(outside)
    (folder / "up").symlink_to(tmp_path)
    uploads = Uploads(tmp_path, [folder])
    assert list(uploads.listed()) == ["1: sub/ink.safetensors"]
    assert uploads.pick("1: sub/ink.safetensors").path == folder / "sub" / "ink.safetensors"
    for name in ("1: out.safetensors", "1: ../outside.safetensors", str(outside), "", "2: x"):
        with pytest.raises(FileNotFoundError, match="named at the start"):
            uploads.pick(name)


@pytest.mark.parametrize(("scheduler", "few"), [(None, False), ("LCMScheduler", True)])
def test_a_file_is_attached_as_what_it_is_said_to_be(
    scheduler: str | None, few: bool, style: Path, tmp_path: Path
) -> None:
    uploads = Uploads(tmp_path)
    with drawing(Studio(make_stage())) as studio:
        key = dropped(uploads, "ink.safetensors", style.read_bytes()).key
        loaded = uploads.attach(studio, key, scheduler)
        assert (loaded.recipe is not None) is few and loaded.name == "ink"
        with pytest.raises(ValueError, match=r"^ink\.safetensors is attached already"):
            uploads.attach(studio, key, scheduler)
        with pytest.raises(FileNotFoundError, match="drop it again"):
            uploads.attach(studio, "../x", scheduler)
