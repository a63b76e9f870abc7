"""What counts as a finished run: a result of which every part is there and whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from lcm.adapter.full_unet import export_unet
from lcm.adapter.names import WEIGHTS_NAME, is_full
from lcm.outputs.finished import flaw, flaw_of_result, result_files, write_result_sums
from lcm.publish.hub import public_files
from lcm.system.image_grid import save_png
from tests.support.adapters import make_recipe
from tests.support.damage import flip_bit
from tests.support.worlds import build_unet

KINDS = ("adapter", "U-Net")


@pytest.fixture(params=KINDS)
def output(request: pytest.FixtureRequest, adapter: Path, tmp_path: Path) -> Path:
    """A folder as a run leaves it, of either kind."""
    if request.param == "adapter":
        shutil.copy(adapter / WEIGHTS_NAME, tmp_path)
    else:
        unet = build_unet()
        export_unet(unet, tmp_path, make_recipe(), unet.dtype)
    save_png(Image.new("RGB", (8, 8)), tmp_path / "images" / "grid.png")
    (tmp_path / "comfyui_workflow.json").write_text('{"nodes": []}')
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Title\n")
    (tmp_path / "report.html").write_text("<!DOCTYPE html>\n<html></html>\n")
    write_result_sums(tmp_path)
    return tmp_path


def weights(output: Path) -> Path:
    return next(path for path in result_files(output) if path.suffix == ".safetensors")


def file_of(output: Path) -> str | None:
    return None if is_full(output) else WEIGHTS_NAME


def halved(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def bit_flipped(path: Path) -> None:
    flip_bit(path, -2)


DAMAGE: list[Callable[[Path], None]] = [Path.unlink, halved, zeroed, emptied, bit_flipped]
PARTS: dict[str, tuple[str, list[Callable[[Path], None]]]] = {
    "weights": ("", DAMAGE),
    "README.md": ("README.md", [Path.unlink, zeroed, emptied]),
    "grid": ("images/grid.png", [Path.unlink, halved, zeroed, emptied]),
    "workflow": ("comfyui_workflow.json", [halved, zeroed, emptied]),
    "sums": ("SHA256SUMS", [halved, zeroed, emptied, bit_flipped]),
}
"""The parts that are given away, and what can be noticed of them: people may edit a card, and put
another picture in the place of the grid.
"""
CASES = [(part, damage) for part, (_, kinds) in PARTS.items() for damage in kinds]


def test_a_whole_result_is_whole_and_what_people_may_change_stays_so(output: Path) -> None:
    assert flaw(output, 4) is None
    with (output / "README.md").open("a") as card:
        card.write("My words.\n")
    save_png(Image.new("RGB", (9, 9), "red"), output / "images" / "grid.png")
    (output / "notes.txt").touch()
    assert flaw(output, 4) is None
    (output / "SHA256SUMS").unlink()  # which former versions did not write
    assert flaw(output, 4) is None


@pytest.mark.parametrize(("part", "damage"), CASES)
def test_a_damaged_part_is_noticed_and_not_given_away(
    output: Path, part: str, damage: Callable[[Path], None]
) -> None:
    name, _ = PARTS[part]
    path = output / name if name else weights(output)
    damage(path)
    what = flaw_of_result(output)
    assert (what is not None and path.name in what) or part == "sums"
    assert flaw(output, 4) == what
    with pytest.raises((ValueError, OSError), match=path.name if part != "sums" else "removed?"):
        public_files(output, file_of(output))


@pytest.mark.parametrize("damage", [Path.unlink, halved, zeroed, emptied])
def test_damage_is_noticed_without_sums_too(output: Path, damage: Callable[[Path], None]) -> None:
    path = weights(output)
    (output / "SHA256SUMS").unlink()
    damage(path)
    assert flaw_of_result(output) is not None


def test_sums_of_something_else_do_not_vouch_for_the_weights(output: Path) -> None:
    card = sha256((output / "README.md").read_bytes()).hexdigest()
    (output / "SHA256SUMS").write_text(f"{card}  README.md\n")
    assert flaw_of_result(output) == "SHA256SUMS is cut short or overwritten"


def test_a_pipe_in_the_place_of_the_weights_is_not_waited_for(output: Path) -> None:
    path = weights(output)
    path.unlink()
    os.mkfifo(path)
    assert flaw(output, 4) == f"{path.relative_to(output).as_posix()} is missing"


@pytest.mark.parametrize("name", ["README.md", "images/grid.png", "comfyui_workflow.json", ""])
def test_nothing_behind_a_link_is_given_away(
    output: Path, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = output / name if name else weights(output)
    elsewhere = path.rename(tmp_path_factory.mktemp("elsewhere") / path.name)
    path.symlink_to(elsewhere)
    with pytest.raises(ValueError, match=f"{path.name} leads out of"):
        public_files(output, file_of(output))


@pytest.mark.parametrize("damage", [Path.unlink, halved, zeroed, emptied])
def test_the_page_is_a_part_of_a_finished_run_but_is_not_given_away(
    output: Path, damage: Callable[[Path], None]
) -> None:
    damage(output / "report.html")
    assert flaw(output, 4) == "report.html is missing or cut short"
    assert weights(output) in public_files(output, file_of(output))
