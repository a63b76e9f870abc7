"""The benchmark of a card, rehearsed on the CPU: every section measures, a cut run goes on, and an
error stays where it is. What it measures is not asserted.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import report
from benchmarks.device import Device, datasheet_peak
from benchmarks.gpu import runner
from benchmarks.gpu.__main__ import main, unpack
from benchmarks.gpu.plan import SECTIONS, Bench, Case, Section
from benchmarks.gpu.record import MOST_TRIES, Record, read_results
from benchmarks.gpu.runner import MINUTES, DeadDeviceError, measure_all
from benchmarks.gpu.tables import NOTHING, TABLES, TOGETHER, gpu_tables

CPU = Device(torch.device("cpu"))
CHEAPEST = {"step": "sd15-b16-fp16", "checkpointing": "sd15-b16-fp16", "compile": "sdxl-b4-bf16-no"}
"""Of sections whose first case is not."""
CALLS: list[str] = []
HERE = f"{__name__}:measure_fake"


def measure_fake(bench: Bench, name: str = "", do: Callable[[], Any] = dict) -> dict[str, Any]:
    """What the sections of these tests call."""
    CALLS.append(name)
    return {"name": name, "value": do()}


def fakes(*names: str, seconds: float = 1.0, **does: Callable[[], Any]) -> list[Section]:
    """A section each."""
    return [
        Section(name, 60.0, HERE, {"x": Case(seconds, {"name": name, "do": does.get(name, dict)})})
        for name in names
    ]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    CALLS.clear()
    return Record.open(tmp_path / "gpu.json", {"name": "CPU", "tiny": True, "python": "3"})


def reopened(record: Record) -> Record:
    """As another process finds it."""
    return Record.open(record.path, record.machine)


# --- every section --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One case of every section, measured on small shapes."""
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    sections = []
    for section in SECTIONS:
        name = CHEAPEST.get(section.name, next(iter(section.cases)))
        sections.append(replace(section, cases={name: section.cases[name]}))
    record = Record.open(path, {**CPU.facts(), "tiny": True})
    assert measure_all(record, CPU, sections, tiny=True, say=lambda _: None) == []
    return read_results(path)


@pytest.mark.parametrize("section", [section.name for section in SECTIONS])
def test_every_section_measures(rehearsed: dict[str, Any], section: str) -> None:
    (cell,) = (cell for name, cell in rehearsed["cells"].items() if name.startswith(section))
    assert "error" not in cell, cell
    for column in cell.get("seconds", {}).values():
        assert column and min(column) > 0.0


def test_the_contenders_of_a_step_take_the_same_one(rehearsed: dict[str, Any]) -> None:
    cell = rehearsed["cells"]["step/sd15-b16-fp16"]
    for name, facts in cell["contenders"].items():
        # a cache keeps moments, and draws the latents in another order of roundings
        assert facts["loss_apart"] < (1e-2 if "cache" in name else 1e-4), name
        assert facts["gradient_cosine"] > 0.99, name
    assert cell["failed"] == {}


def test_the_toolkit_is_right_where_it_is_rehearsed(rehearsed: dict[str, Any]) -> None:
    checks = rehearsed["cells"]["right/scaler"]["checks"]
    assert len(checks) == 6 and all(checks.values()), checks


def test_a_graph_computes_what_single_kernels_do(rehearsed: dict[str, Any]) -> None:
    plain, graph = rehearsed["cells"]["graph/sd15-b1-bf16"]["results"].values()
    assert plain == graph and plain["gradients"] > 0


def test_every_section_is_in_a_table(rehearsed: dict[str, Any]) -> None:
    text = gpu_tables(rehearsed)
    said, *tables = text.split("\n\n")
    assert "none of this says anything about a card" in said
    assert len(tables) == len(TABLES) + 1 and all("|---|" in table for table in tables)
    together = {name for section in TABLES for name in TOGETHER.get(section, (section,))}
    assert together | {"ceiling"} == {section.name for section in SECTIONS}


# --- running --------------------------------------------------------------------------------------


def test_a_second_run_measures_what_is_missing(record: Record) -> None:
    sections = fakes("a", "b", "c")
    assert measure_all(record, CPU, sections[:1], say=CALLS.append) == []
    again = reopened(record)
    assert measure_all(again, CPU, sections, say=lambda _: None) == []
    assert [name for name in CALLS if len(name) == 1] == ["a", "b", "c"]
    assert list(reopened(record).cells) == ["a/x", "b/x", "c/x"]


def test_an_error_is_kept_and_the_next_goes_on(record: Record) -> None:
    def fail() -> None:
        try:
            raise ValueError("the first")
        finally:
            raise RuntimeError("CUDA out of memory\x1b[31m")

    gone = Section("gone", 60.0, "benchmarks.gpu.no_such_module:measure", {"x": Case(1.0, {})})
    sections = [*fakes("a", a=fail), gone, *fakes("b", b=lambda: float("nan"))]
    assert measure_all(record, CPU, sections, say=lambda _: None) == []
    cells = reopened(record).cells
    assert cells["a/x"]["error"] == (
        "RuntimeError: CUDA out of memory\\x1b[31m (first ValueError: the first)"
    )
    assert cells["gone/x"]["error"].startswith("ModuleNotFoundError")
    assert cells["b/x"]["value"] == "nan"
    again = reopened(record)
    again.forget_errors()
    assert list(again.cells) == ["b/x"]
    table = gpu_tables({"machine": {**CPU.facts()}, "cells": {"a/x": cells["a/x"]}})
    assert "| a/x | RuntimeError: CUDA out of memory" in table


def test_what_a_process_died_in_comes_last_and_not_for_ever(record: Record) -> None:
    sections = fakes("a", "b")
    record.begin("a/x")  # and nothing more was heard of it
    assert measure_all(reopened(record), CPU, sections, say=lambda _: None) == []
    assert CALLS == ["b", "a"]
    CALLS.clear()
    for _ in range(MOST_TRIES):
        record.begin("a/x")
    assert measure_all(reopened(record), CPU, sections[:1], say=lambda _: None) == []
    assert CALLS == [] and "begun" in reopened(record).cells["a/x"]["error"]


def test_nothing_begins_that_cannot_end_in_time(record: Record) -> None:
    sections = [*fakes("long", seconds=50.0), *fakes("short", seconds=1.0)]
    assert measure_all(record, CPU, sections, minutes=0.2, say=lambda _: None) == ["long/x"]
    assert CALLS == ["short"]


def test_a_section_leaves_the_others_their_time(record: Record) -> None:
    """Its second case waits until all have had their turn."""
    cases = {name: Case(40.0, {"name": name}) for name in ("a1", "a2")}
    cases["a1"].options["do"] = lambda: time.sleep(0.2)
    sections = [Section("a", 40.1, HERE, cases), *fakes("b")]
    assert measure_all(record, CPU, sections, minutes=MINUTES, say=lambda _: None) == []
    assert CALLS == ["a1", "b", "a2"]


def test_what_takes_too_long_is_given_up(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SHORTEST_LIMIT", 0.05)
    sections = fakes("a", "b", seconds=0.01, a=lambda: time.sleep(5.0))
    assert measure_all(record, CPU, sections, say=lambda _: None) == []
    assert "took longer" in reopened(record).cells["a/x"]["error"]
    assert "error" not in reopened(record).cells["b/x"]


def test_what_the_end_of_the_time_cuts_is_measured_next_time(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LEFT_OVER", 0.0)
    sections = fakes("a", seconds=0.0, a=lambda: time.sleep(8.0))
    assert measure_all(record, CPU, sections, minutes=0.2 / 60.0, say=lambda _: None) == ["a/x"]
    again = reopened(record)
    assert again.cells == {} and again.begun == {}


def cannot_be_cleared(device: Device) -> None:
    raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")


@pytest.mark.parametrize(
    ("method", "dead"), [("is_alive", lambda _: False), ("clear", cannot_be_cleared)]
)
def test_a_dead_device_asks_for_another_process(
    method: str, dead: Callable[[Device], Any], record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        monkeypatch.setattr(Device, method, dead)
        raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(DeadDeviceError):
        measure_all(record, CPU, fakes("a", "b", a=die), say=lambda _: None)
    assert list(reopened(record).cells) == ["a/x"]
    assert CALLS == ["a"]


# --- files and words ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "no JSON object"),
        ("{", "no JSON"),
        ('{"cells": {}}', "machine is missing"),
        ('{"machine": {"name": "NVIDIA H200"}, "cells": {}, "begun": {}}', "another machine"),
    ],
)
def test_no_other_file_is_written_over(record: Record, content: str, words: str) -> None:
    record.path.write_text(content)
    with pytest.raises(ValueError, match=words):
        reopened(record)
    assert record.path.read_text() == content


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--minutes", "0"], "--minutes"),
        (["--minutes", "nan"], "--minutes"),
        (["--only", "stp"], "no section 'stp'"),
        (["--wheels", "nowhere"], "no wheels"),
        *([] if torch.cuda.is_available() else [([], "no NVIDIA GPU")]),
    ],
)
def test_what_cannot_be_is_one_line(flags: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=words) as error:
        main(["--output", str(tmp_path / "gpu.json"), *flags])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "gpu.json").exists()


def test_wheels_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "carried-7-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried/__init__.py", "VALUE = 5")
        metadata = "Metadata-Version: 2.1\nName: carried\nVersion: 7\n"
        wheel.writestr("carried-7.dist-info/METADATA", metadata)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "before")
    unpack(tmp_path)
    assert version("carried") == "7"
    assert os.environ["PYTHONPATH"] == os.pathsep.join([sys.path[0], "before"])


def test_a_card_is_known_by_its_name() -> None:
    peaks = {
        "NVIDIA H200": 989.0,
        "NVIDIA H100 PCIe": 756.0,
        "NVIDIA H100 80GB HBM3": 989.0,
        "NVIDIA A100-SXM4-80GB": 312.0,
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb": None,
        "NVIDIA RTX A1000": None,
        "NVIDIA L40": None,
    }
    assert {name: datasheet_peak(name) for name in peaks} == peaks


def test_the_page_says_so_while_no_card_was_measured(tmp_path: Path) -> None:
    assert gpu_tables({}) == NOTHING
    assert report.raw("gpu", tmp_path / "gpu.json") == {}
    with pytest.raises(FileNotFoundError):
        report.raw("counts", tmp_path / "counts.json")
    (tmp_path / "gpu.json").write_text(json.dumps({"machine": {}}))
    assert report.raw("gpu", tmp_path / "gpu.json") == {"machine": {}}
