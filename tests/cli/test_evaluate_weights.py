"""`lcm evaluate` of one adapter with several weights: each is an adapter of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcm.adapter.names import WEIGHTS_NAME
from lcm.evaluation.evaluation import CARD_NAME, JSON_NAME, PAGE_NAME
from tests.support.evaluations import evaluate

BRIEF = ("--steps", 1, "--teacher_steps", 1, "--batch_size", 4, "--metrics", "nmse")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("given") / "prompts.txt"
    file.write_text("a star\na ring\n")
    return file


def nmse(output: Path) -> dict[str, float]:
    content = json.loads((output / JSON_NAME).read_text())
    return {each["subject"]: each["value"] for each in content["results"]}


def test_weights_have_rows_and_pictures_of_their_own_which_stay_theirs(
    sd_folder: Path, adapter: Path, prompts: Path, tmp_path: Path
) -> None:
    def drawn(*adapters: Any) -> dict[str, int]:
        words = ("--prompts", prompts, *BRIEF, "--adapter", *adapters)
        assert evaluate(sd_folder, tmp_path, *words) == 0
        return {str(path): path.stat().st_mtime_ns for path in tmp_path.glob("pictures/**/*.png")}

    name, half = adapter.name, f"{adapter.name}-0.5"
    first = drawn(f"{adapter}=0.5")
    alone = nmse(tmp_path)
    assert alone.keys() == {half}
    both = drawn(f"{adapter}=0.5", f"{adapter}=1.0")
    assert first.items() < both.items() and len(both) == 3 * 2 * 2
    found, content = nmse(tmp_path), json.loads((tmp_path / JSON_NAME).read_text())
    assert found[half] == alone[half] != found[name]
    assert {each["name"]: each["weight"] for each in content["adapters"]} == {half: 0.5, name: 1.0}
    (compared,) = content["comparisons"]
    assert (compared["one"], compared["other"]) == (name, half)
    page, card = ((tmp_path / file).read_text() for file in (PAGE_NAME, CARD_NAME))
    assert f"{name} x 0.5, {name}</title>" in page and f">{half}</th>" in page
    assert f"`{half}`" in card and f"`{name}`" in card
    # in another order it is the same evaluation
    assert drawn(adapter, f"{adapter}=0.5") == both and nmse(tmp_path) == found


@pytest.mark.parametrize("again", ["{0}=0.50", "{0}/../{1}=0.5", "{0}/{2}=0.5", "link=0.5"])
def test_the_same_twice_is_refused_by_whatever_path(
    again: str,
    sd_folder: Path,
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to(adapter)
    word = again.format(adapter, adapter.name, WEIGHTS_NAME)
    words = ("--adapter", f"{adapter}=0.5", word, *BRIEF)
    assert evaluate(sd_folder, tmp_path / "out", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    first = "" if word.startswith(f"{adapter}=") else f" (first as {adapter})"
    assert f" is named twice with weight 0.5{first}; name it once" in line
    assert not (tmp_path / "out").exists()
