"""A run is the same run when it is interrupted, and however many processes, workers and batches
make its updates.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.exactness import ONE, SAMPLES, STEPS, TWO, Case
from tests.support.outputs import (
    assert_same_gradients,
    differences,
    lines_but_for_the_machine,
    losses,
)

CASES = [*ONE, *TWO]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `python -m tests.support.exactness`."""
    folder = tmp_path_factory.mktemp("exactness")
    words = [sys.executable, "-m", "tests.support.exactness", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    logs = (
        "".join(path.read_text()[-2000:] for path in folder.rglob("log")) if done.returncode else ""
    )
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return folder


def trained_on(top: Path, name: str) -> dict[int, list[Any]]:
    """Step -> what every sample of it was, with its noises and its time, whichever process had
    it.
    """
    steps: dict[int, list[Any]] = defaultdict(list)
    for path in top.glob(f"{name}-*.jsonl"):
        for line in path.read_text().splitlines():
            step, *sample = json.loads(line)
            steps[step].append(sample)
    return {step: sorted(samples) for step, samples in steps.items()}


def in_order(path: Path, after: int) -> list[str]:
    """What one process trained on after a step."""
    return [line for line in path.read_text().splitlines() if json.loads(line)[0] > after]


def assert_same_lines(output: Path, other: Path) -> None:
    """The same names in the same order; the same numbers up to rounding, or none."""
    lines = (lines_but_for_the_machine(folder) for folder in (output, other))
    for ours, theirs in zip(*lines, strict=True):
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            expected = None if value is None else pytest.approx(value, rel=1e-3)
            assert ours[name] == expected, name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_resumed_run_is_the_whole_run_bit_for_bit(made: Path, case: Case) -> None:
    """Weights, averages, moments, lines of the log, pictures, and the samples in their order."""
    top = made / case.name
    assert losses(top / "whole") == losses(top / "resumed") and len(losses(top / "whole")) == STEPS
    unlike = [
        name
        for name in differences(top / "resumed", top / "whole")
        if not name.endswith("validation/step-000000.png")
    ]
    assert unlike == []
    for rank in range(case.processes):
        whole, resumed = (top / f"{name}-{rank}.jsonl" for name in ("whole", "resumed"))
        assert in_order(resumed, 0) == in_order(whole, STEPS // 2) != []


@pytest.mark.parametrize("case", TWO, ids=lambda case: case.name)
def test_another_machine_needs_neither_the_folder_nor_the_checkpoint(
    made: Path, case: Case
) -> None:
    assert {path.name for path in (made / case.name).iterdir() if path.is_dir()} - {"moved"} == {
        "resumed",
        "whole",
    }


def test_another_number_of_processes_goes_on_with_the_same_run(made: Path) -> None:
    top = made / TWO[0].name
    assert losses(top / "moved") == pytest.approx(losses(top / "whole"), rel=1e-3)
    assert len(losses(top / "moved")) == STEPS


@pytest.mark.parametrize(
    ("cache", "buckets"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_processes_workers_and_accumulation_divide_the_same_updates(
    made: Path, cache: bool, buckets: bool
) -> None:
    """The same samples with the same noises and times, and so, up to rounding, the same lines in
    the log and gradients; and the same pictures before the first update, whoever drew their rows.
    """
    same = [made / case.name for case in CASES if (case.cache, case.buckets) == (cache, buckets)]
    assert {name[: len("processes-1")] for name in (path.name for path in same)} == {
        "processes-1",
        "processes-2",
    }
    for one, other in pairwise(same):
        samples = trained_on(one, "whole")
        assert [len(samples[step]) for step in range(1, STEPS + 1)] == [SAMPLES] * STEPS
        assert trained_on(other, "whole") == samples
        assert_same_lines(one / "whole", other / "whole")
        first, second = (top / "whole" / "validation" / "step-000000.png" for top in (one, other))
        assert first.read_bytes() == second.read_bytes()
        assert_same_gradients(*(top / "whole" / f"checkpoint-{STEPS // 2}" for top in (one, other)))


def test_a_process_that_waits_in_vain_gives_up_when_it_was_told_to(made: Path) -> None:
    """In a barrier of gloo, whose own patience is half an hour: what is set is in effect."""
    assert "imed out" in (made / "waited").read_text()
