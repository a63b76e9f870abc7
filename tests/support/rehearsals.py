"""What rehearsals are compared with."""

from __future__ import annotations

from typing import Any

import pytest

import train_lcm_lora
from lcm.dry_run.memory_fit import TRAINED, UNET, Memory
from lcm.training.step import ENCODED, UPDATED

BRIEF = {"validation_num_steps": 1, "validation_prompts": "a"}
"""Next to no drawing."""


def error_line(capsys: pytest.CaptureFixture[str], line: list[str]) -> str:
    assert train_lcm_lora.main(line) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return error


def memory_with(**changes: Any) -> Memory:
    steps = {1: {ENCODED: 100, UPDATED: 20}, 11: {ENCODED: 100, UPDATED: 220}}
    values: dict[str, Any] = {
        "total": 1000,
        "wanted": 11,
        "held": {UNET: 50, TRAINED: 20},
        "steps": steps,
        "besides": {"drawing": 90},
    }
    return Memory(**{**values, **changes})
