"""Every name that a run, a verb or a cache writes is one that Windows has, and that stays itself
where upper and lower case are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from lcm.data.precomputed.store import Writer
from lcm.inference.planned import grid_name as picture_grid
from lcm.inference.planned import plan
from lcm.outputs.folder import OVERWRITTEN, grid_name
from tests.support.runs import run

RESERVED = {"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in "0123456789"}
FORBIDDEN = re.compile(r'[<>:"\\|?*\x00-\x1f]|[. ]$')
"""In a name; so is a space or a dot at its end."""


def wrong_names(names: Iterable[str]) -> list[str]:
    """Those that Windows does not take, or takes for another of them."""
    found, seen = [], set[str]()
    for name in names:
        parts = name.split("/")
        stems = {part.split(".")[0].strip().lower() for part in parts}
        if (
            any(FORBIDDEN.search(part) for part in parts)
            or stems & RESERVED
            or name.lower() in seen
        ):
            found.append(name)
        seen.add(name.lower())
    return found


def below(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]


@pytest.mark.parametrize(
    "name",
    [
        *("a:b", "x/aux", "NUL.txt", "com1", "end.", "end ", "what?", "a|b", 'say "x"', "a\\b"),
        "x\ny",
    ],
)
def test_a_name_that_windows_has_not_would_be_found(name: str) -> None:
    assert wrong_names([name]) == [name]
    assert wrong_names(["a/b.png", ".a.part", "A/B.png"]) == ["A/B.png"]


def test_the_names_of_a_run_are_names_on_windows(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    options = {"max_train_steps": 1, "checkpointing_steps": 1, "validation_num_steps": 1}
    options |= {"cache_latents": True, "latent_cache_dir": tmp_path / "cache"}
    assert run(sd_folder, images, tmp_path / "out", **options) == 0
    written = below(tmp_path)
    assert len(written) > 15 and wrong_names(written) == []
    assert wrong_names([*(name for name in OVERWRITTEN if "*" not in name), grid_name(10)]) == []


@pytest.mark.parametrize(
    "prompt",
    ["aux", "NUL", "a: b?", 'say "no" | <tag>', "dots...", "tail. ", "..", "C:\\x", "é\n*", "İ"],
)
def test_a_picture_is_named_by_any_prompt(prompt: str) -> None:
    names = [picture.name for picture in plan([prompt, prompt.upper(), ""], [1, 2], [0, -1])]
    assert len(names) == 12 and wrong_names([*names, picture_grid(0)]) == []


def test_a_row_of_a_cache_is_in_a_file_of_such_a_name(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    for key in ("a:b", "AUX/con", "x. "):
        writer.add(key, {"x": torch.zeros(1)})
    writer.flush()
    assert wrong_names(below(tmp_path)) == []
