"""What is drawn has names of its own, and is not mixed up with what others drew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from lcm.evaluation.drawings import Drawings
from lcm.evaluation.evaluation import CARD_NAME, JSON_NAME, PAGE_NAME, check_ways
from lcm.evaluation.subjects import names_of


def test_names_are_fit_for_folders_and_differ() -> None:
    hostile = ["a/../x y", "b/x y/", "teacher", "ü" * 90]
    weights = [("c/x y", weight) for weight in (0.5, 0.5000001, -0.5, 2.0, 1e-300, 1000.0)]
    found = names_of([*((path, 1.0) for path in hostile), *weights])
    assert len({name.lower() for name in found}) == 10
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", name) for name in found)
    assert "teacher" not in found


def test_the_pictures_of_another_are_not_taken_for_ours(tmp_path: Path) -> None:
    made = Drawings("mine", 1, ("x",), (0,), (0,), tmp_path, "key")
    for write in (
        lambda path: Image.new("RGB", (8, 8)).save(path),
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\xff" * 99),
        lambda path: path.write_bytes(b""),
    ):
        write(made.path(0, 0))
        assert made.is_others(0, 0) and not made.is_there(0, 0)


def test_nothing_of_anybody_else_is_replaced_and_nothing_is_found_in_the_way_too_late(
    tmp_path: Path,
) -> None:
    for name in (JSON_NAME, PAGE_NAME, CARD_NAME):
        folder = tmp_path / name.partition(".")[2] / name.partition(".")[0]
        folder.mkdir(parents=True)
        check_ways(folder, overwrite=False)
        (folder / name).write_text("{}")
        with pytest.raises(ValueError, match=f"output: .*{name} is of no evaluation"):
            check_ways(folder, overwrite=False)
        check_ways(folder, overwrite=True)
        (folder / name).unlink()
        (folder / name).mkdir()
        with pytest.raises(ValueError, match=f"output: .*{name} is a folder"):
            check_ways(folder, overwrite=True)
    (folder / "features").write_text("")
    with pytest.raises(ValueError, match=r"output: .*features is no folder"):
        check_ways(folder, overwrite=True)
    (tmp_path / JSON_NAME).write_text('{"format": 1, "results": [], "comparisons": []}')
    (tmp_path / CARD_NAME).write_text("")
    check_ways(tmp_path, overwrite=False)
