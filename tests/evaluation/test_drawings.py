"""What is drawn has names of its own, and is not mixed up with what others drew."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from lcm.evaluation.drawings import Drawings
from lcm.evaluation.subjects import names_of


def test_names_are_fit_for_folders_and_differ() -> None:
    hostile = {"a/../x y": 1.0, "b/x y/": 1.0, "teacher": 1.0, "ü" * 90: 1.0, "c/x y": 0.5}
    found = names_of(hostile)
    assert len({name.lower() for name in found}) == 5
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
