"""What is in the way of a folder, while others make it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcm.system.paths import obstacle


@pytest.mark.parametrize("question", ["is_dir", "exists", "is_symlink"])
def test_a_folder_that_comes_between_two_questions_is_not_in_the_way(
    question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs that share a cache begin at the same moment."""
    folder = tmp_path / "cache"
    asked = getattr(Path, question)

    def made_after(path: Path) -> bool:
        answer: bool = asked(path)
        if path == folder:
            folder.mkdir(exist_ok=True)
        return answer

    monkeypatch.setattr(Path, question, made_after)
    assert obstacle(folder) is None


def test_a_file_and_a_link_to_nothing_are_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert obstacle(tmp_path / "file" / "cache") == f"{tmp_path / 'file'} is no folder"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "which is not there" in (obstacle(tmp_path / "link") or "")
