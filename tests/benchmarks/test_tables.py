"""The tables of the benchmark hold together with its raw results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.methods import report
from benchmarks.methods.cost import AGAIN, UNIT, measure_costs
from benchmarks.methods.plan import PLAN, Run, load_plan
from benchmarks.methods.tables import methods_table, teacher_table
from benchmarks.methods.teacher import CURVE_STEPS, RESULTS, ddim_curve, steps_for, write_json


def test_costs_are_of_every_run_and_round_and_of_the_unit_twice() -> None:
    flags = {
        "pretrained_teacher_model": "examples/shapes/teacher",
        "resolution": 64,
        "lora_rank": 2,
        "train_batch_size": 2,
        "guidance_scale": 1.0,
    }
    costs = measure_costs(
        [Run(UNIT, flags), Run("ct", {**flags, "objective": "ct", "guidance_scale": None})],
        rounds=2,
    )
    assert list(costs["seconds_per_sample"]) == [UNIT, "ct", AGAIN]
    assert all(
        len(seconds) == 2 and min(seconds) > 0 for seconds in costs["seconds_per_sample"].values()
    )


def row(**other: Any) -> dict[str, Any]:
    measures = {
        "all_right": 0.9,
        "plus_minus": 0.02,
        "diversity_ratio": 0.95,
        "judge_fd": 1.0,
        "judge_fd_floor": 0.5,
    }
    return {**measures, "images": 384, **other}


def result(name: str, seed: int = 0, **other: Any) -> dict[str, Any]:
    steps = {
        "1": row(endpoint_nmse=0.5),
        "2": row(),
        "4": row(all_right=0.9 + 0.02 * seed),
        "8": row(),
    }
    facts = {"control": False, "reference_guidance_scale": 5.0, "steps": steps}
    return {"name": name, "seed": seed, **facts, **other}


def test_the_table_has_one_line_a_run_with_controls_last() -> None:
    results = [result("base", control=True), result("cd"), result("lcm"), result("lcm", 1)]
    seconds = {"lcm": [1.0, 2.0, 3.0], "cd": [2.0, 8.0, 6.0], "lcm again": [1.0, 2.0, 3.3]}
    head, _, *lines = methods_table(
        results, {1: 1.0, 4: 0.25}, seconds, ["lcm", "cd", "base"]
    ).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[0] for line in cells] == ["lcm", "cd", "base (control)"]
    assert all(len(line) == head.count("|") - 1 for line in cells)
    assert [line[1] for line in cells] == ["2", "1", "1"]
    assert cells[0][4] == "91.0% (90.0 to 92.0)"
    assert cells[1][4] == "90.0% ± 2.0%"
    assert cells[0][6:8] == ["0.500 (2.0)", "-"]  # halfway in both logarithms
    assert [line[-1] for line in cells] == ["1.00", "2.00", "-"]


def test_the_curve_counts_once_it_is_complete(tmp_path: Path) -> None:
    assert ddim_curve(tmp_path) == {}
    rows = [
        row(part="curve", sampler="DDIM", steps=n, evaluations=n, endpoint_nmse=1 / n)
        for n in CURVE_STEPS
    ]
    write_json(tmp_path / "teacher.json", rows[:-1])
    assert ddim_curve(tmp_path) == {}
    write_json(tmp_path / "teacher.json", rows)
    assert ddim_curve(tmp_path) == {n: 1 / n for n in CURVE_STEPS}
    assert teacher_table(rows).count("\n") == 1 + len(rows)


def test_heun_stays_within_its_evaluations() -> None:
    from diffusers import HeunDiscreteScheduler

    for budget in (4, 8, 20, 40):
        scheduler = HeunDiscreteScheduler()
        scheduler.set_timesteps(steps_for("Heun", budget))
        assert budget - 2 < len(scheduler.timesteps) <= budget
        assert steps_for("DDIM", budget) == budget


def test_the_report_fills_its_document_and_needs_no_adapters(tmp_path: Path) -> None:
    write_json(tmp_path / "results" / "lcm-seed0.json", result("lcm"))
    document = tmp_path / "docs" / "methods.md"
    flags = [
        "--results_dir",
        str(tmp_path / "results"),
        "--output_dir",
        str(tmp_path / "none"),
        "--document",
        str(document),
    ]
    report.main(flags)
    first = document.read_text()
    assert "| lcm | 1 | 90.0% ± 2.0% |" in first
    document.write_text(first.replace("# Methods", "# Methods\n\nWritten by hand."))
    report.main(flags)
    assert document.read_text() == first.replace("# Methods", "# Methods\n\nWritten by hand.")
    assert not (tmp_path / "results" / "methods.png").exists()


def test_the_document_is_what_the_raw_results_say() -> None:
    if report.DOCUMENT.exists():
        text = report.DOCUMENT.read_text()
        assert report.filled(text, RESULTS, [run.name for run in load_plan(PLAN)]) == text
