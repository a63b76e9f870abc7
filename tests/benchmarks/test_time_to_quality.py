"""The arithmetic of the benchmarks over time and over sizes; every entry of the plan can begin,
learn and be scored.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale import scale_table
from benchmarks.time_to_quality import (
    LEVELS,
    NUM_STEPS,
    begin,
    load_plan,
    quality_table,
    reached,
    spread,
    turn,
)
from examples.shapes.judge import Judge
from examples.shapes.render import write_dataset
from tests.support import ROOT

PLANNED: dict[str, dict[str, Any]] = load_plan()["learners"]
TEACHER = ROOT / load_plan()["teachers"]["v_prediction, zero SNR"]["path"]


def curve(*accuracies: float) -> list[dict[str, Any]]:
    return [
        {"updates": 10 * i, "seconds": 2.0 * i, "2": value, "4": value}
        for i, value in enumerate(accuracies, start=1)
    ]


def test_a_level_is_reached_by_two_scorings_running() -> None:
    assert reached(curve(0.5, 0.8, 0.79, 0.9, 0.8), 2, 0.8) == 8.0
    assert reached(curve(0.9), 2, 0.8) == math.inf
    assert reached(curve(0.9, 0.7, 0.9), 4, 0.8) == math.inf


def test_scorings_come_in_turns_that_grow_with_the_run() -> None:
    assert [turn(updates) for updates in (0, 90, 100, 200, 1000)] == [10, 10, 10, 20, 100]


def test_the_table_divides_seed_by_seed() -> None:
    slow, fast = curve(*[0.5] * 9, 0.95, 0.95), curve(0.95, 0.95)
    seeds = {
        "0": {"first": slow, "other": fast},
        "1": {"first": curve(0.5, 0.95, 0.95), "other": fast},
    }
    rows = quality_table({"teachers": {"a": seeds}}).splitlines()
    assert rows[2].startswith("| a | 2 | first | 12 (4 to 20) |")
    assert rows[3].startswith("| a | 2 | other | 2; 6.0x |")
    never = quality_table(
        {"teachers": {"a": {"0": {"first": curve(*[0.5] * 9), "other": fast}}}}
    ).splitlines()
    assert never[2].startswith("| a | 1 | first | - |")
    assert never[3].startswith("| a | 1 | other | 2; > 9.0x |")
    assert spread([3.0, math.inf]) == "- (3 to -)"
    assert spread([math.inf]) == "-"


@pytest.mark.parametrize("name", PLANNED)
def test_every_entry_begins_learns_and_is_scored(name: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "images", 16)
    flags = dict(PLANNED[name])
    if "prompts_file" in flags:
        (tmp_path / "prompts.txt").write_text("a red star on a navy background\n")
        flags |= {"prompts_file": str(tmp_path / "prompts.txt"), "num_ddim_timesteps": 4}
    flags["train_batch_size"] = 2
    course = begin(name, flags, TEACHER, tmp_path / "images", tmp_path / "run", seed=0)
    course.train(1)
    course.score(Judge.load(), num_images=2)
    assert course.seconds > 0.0
    assert (course.updates, course.is_over) == (1, False)
    assert set(course.curve[0]) == {"updates", "seconds", *map(str, NUM_STEPS)}
    assert len(LEVELS) == 2


def test_a_line_of_the_scale_table_is_a_mode_of_a_cell() -> None:
    mode = {"startup_seconds": 1.25, "images_per_second": [10.0, 30.0, 20.0], "peak_gib": 0.5}
    cell = {
        "images": 10_000,
        "processes": 2,
        "modes": {"pixels": mode, "cache there": {**mode, "cache_bytes": 2**21}},
    }
    rows = scale_table(json.loads(json.dumps({"cells": [cell]}))).splitlines()
    assert rows[2] == "| 10 000 | 2 | pixels | 1.2 | 20 (10 to 30) | 0.50 |  |"
    assert rows[3].endswith("| 0.50 | 2 |")
