"""The benchmark of the verbs runs every case on tiny files, and its table holds its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import verbs
from tests.support.worlds import build_unet


def test_every_case_runs_and_has_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**build_unet().config, "_class_name": "UNet2DConditionModel"}
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "sd15.json").write_text(json.dumps(config, default=list))
    monkeypatch.setattr(verbs, "HERE", tmp_path)
    monkeypatch.setattr(verbs, "launch", verbs.worker)
    flags = ["--results_dir", str(tmp_path / "results"), "--models", "sd15", "--rank", "20"]
    verbs.main([*flags, "--rounds", "1"])
    results = json.loads((tmp_path / "results" / verbs.NAME).read_text())
    assert list(results["models"]["sd15"]["cases"]) == [verbs.FLOOR, *verbs.CASES]
    assert results["models"]["sd15"]["layers"] == 79
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 1 + len(verbs.CASES) and "SD 1.5, 79 layers" in lines[2]


def cost(cpu: float, peak: float = 10.0) -> dict[str, float]:
    return {"imports": 1.0, "cpu": cpu, "wall": cpu, "peak_mib": peak}


def test_ratios_are_of_the_same_round() -> None:
    cases: dict[str, Any] = {
        verbs.FLOOR: [cost(1.0), cost(2.0), cost(1.0)],
        "repair": [cost(3.0), cost(4.0), cost(9.0)],
    }
    facts = {"layers": 2, "bytes": 3e6, "rank": 1, "cases": cases}
    last = verbs.verbs_table({"models": {"sdxl": facts}}).splitlines()[-1]
    assert [cell.strip() for cell in last.strip("|").split("|")] == [
        *("", "repair", "1.0", "4.00", "3.0", "10")
    ]


def test_a_case_that_ends_otherwise_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcm.cli.main.main", lambda words: 2)
    with pytest.raises(RuntimeError, match=r"inspect .* ended with 2"):
        verbs.run("inspect", tmp_path)
