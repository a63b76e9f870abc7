"""metrics.jsonl after a resume: which lines are gone is said, once, and no more than that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lcm.outputs.metrics import MetricsLog

LINES = [f'{{"step": {step}}}\n' for step in (10, 20, 30, 40)]

FILES: dict[str, tuple[str | None, str | None]] = {
    "whole": ("".join(LINES), None),
    "whole, with lines that come again": ("".join([*LINES, '{"step": 50}\n']), None),
    "torn behind the checkpoint": ("".join([*LINES, '{"step": 5']), None),
    "deleted": (None, "1 to 40"),
    "empty": ("", "1 to 40"),
    "zeroed": ("\0" * 60, "1 to 40"),
    "cut": ("".join(LINES[:2]) + LINES[2][:7], "21 to 40"),
    "cut between lines": ("".join(LINES[:3]), "31 to 40"),
    "zeroed at its start": ("\0" * 28 + "".join(LINES[2:]), "1 to 39"),
    "overwritten inside": (LINES[0] + "x" * 13 + "\n" + "".join(LINES[2:]), "11 to 29"),
    "two holes": (LINES[0] + "x\n" + LINES[2] + "\0", "11 to 29, 31 to 40"),
    "steps that are none": ('{"step": "9"}\n[]\n' + "".join(LINES), "1 to 9"),
}


@pytest.mark.parametrize("name", FILES)
def test_lines_that_are_gone_are_named(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, missing = FILES[name]
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    MetricsLog(tmp_path, 40)
    said = [f"metrics.jsonl has no lines of the updates {missing}, which"] if missing else []
    assert [message[: len(said[0])] for message in caplog.messages] == said


def test_a_new_run_misses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(LINES) + "x")
    MetricsLog(tmp_path, 0)
    assert caplog.messages == []
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "end", ['{"step": 2, "lo', '{"step": 3}\n', "\0\0\0\0\n", "7\n", "\0\0\0", '{"loss": 1}\n']
)
def test_a_torn_or_later_line_is_dropped(tmp_path: Path, end: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n' + end)
    MetricsLog(tmp_path, 2).append({"step": 3})
    assert [
        json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ] == [1, 2, 3]
