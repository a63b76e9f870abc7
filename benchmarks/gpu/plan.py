"""What is measured on a card, the most valuable first, and how many of ten minutes it may take."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from benchmarks.device import Device

LONGEST = 14.0
"""Seconds of rounds, at most, of what is compared in one cell."""


@dataclass(frozen=True)
class Case:
    """One measurement of a section: about how many seconds it takes on a fast card, and what the
    section's function is called with.
    """

    seconds: float
    options: dict[str, Any]


@dataclass(frozen=True)
class Section:
    """Measurements of one kind, in order of value. `place` is "module:function" that makes one:
    (Bench, **options) -> what goes into the results. `seconds` are those of ten minutes that it may
    take before all other sections had theirs.
    """

    name: str
    seconds: float
    place: str
    cases: dict[str, Case]


@dataclass(frozen=True)
class Bench:
    """What a measurement gets to know: the device, whether this is a rehearsal with small shapes,
    and when it should be done.
    """

    device: Device
    tiny: bool
    until: float

    @property
    def rounds(self) -> int:
        """How many rounds are made at most."""
        return 1 if self.tiny else 15

    @property
    def within(self) -> float:
        """Seconds in which to make them, of those that are left."""
        return max(0.0, min(LONGEST, 0.4 * (self.until - time.perf_counter())))


def shaped(seconds: float, model: str, batch: int, precision: str, **more: Any) -> dict[str, Case]:
    """The case of a model, batch size and precision, under its name."""
    name = "-".join([model, f"b{batch}", precision, *(str(value) for value in more.values())])
    return {name: Case(seconds, {"model": model, "batch": batch, "precision": precision, **more})}


SECTIONS = (
    Section("ceiling", 10, "benchmarks.gpu.ceiling:measure", {"matmul": Case(4, {})}),
    Section(
        "step",
        150,
        "benchmarks.gpu.steps:measure",
        {
            **shaped(25, "sd15", 16, "fp16"),
            **shaped(25, "sdxl", 4, "bf16"),
            **shaped(30, "sdxl", 8, "bf16"),
            **shaped(25, "sd15", 16, "bf16"),
            **shaped(25, "sdxl", 4, "fp16"),
            **shaped(30, "sdxl", 8, "fp16"),
        },
    ),
    Section(
        "right",
        50,
        "benchmarks.gpu.correctness:measure",
        {
            "scaler": Case(8, {"what": "scaler"}),
            "resume-no": Case(12, {"what": "resume", "precision": "no"}),
            "resume-fp16": Case(12, {"what": "resume", "precision": "fp16"}),
            "resume-bf16": Case(12, {"what": "resume", "precision": "bf16"}),
        },
    ),
    Section(
        "checkpointing",
        60,
        "benchmarks.gpu.modes:measure_checkpointing",
        {
            **shaped(25, "sdxl", 8, "bf16"),
            **shaped(20, "sd15", 16, "fp16"),
            **shaped(20, "sdxl", 4, "fp16"),
            **shaped(20, "sd15", 16, "bf16"),
        },
    ),
    Section(
        "compile",
        110,
        "benchmarks.gpu.modes:measure_compile",
        {
            **shaped(45, "sdxl", 4, "bf16", checkpointing="no"),
            **shaped(60, "sd15", 16, "bf16", checkpointing="no"),
            # not selective: torch compiles nothing that is first called under a dispatch mode, and
            # then never (pytorch #190286)
            **shaped(45, "sdxl", 8, "bf16", checkpointing="full"),
        },
    ),
    Section(
        "graph",
        40,
        "benchmarks.gpu.graphs:measure",
        {
            **shaped(12, "sd15", 1, "bf16"),
            **shaped(15, "sdxl", 1, "bf16"),
            **shaped(12, "sd15", 4, "bf16"),
        },
    ),
    Section(
        "draw",
        75,
        "benchmarks.gpu.drawing:measure",
        {
            **shaped(15, "sd15", 1, "fp16", compiled=False),
            **shaped(20, "sdxl", 1, "fp16", compiled=False),
            **shaped(30, "sdxl", 1, "fp16", compiled=True),
            **shaped(12, "sd15", 4, "fp16", compiled=False),
            **shaped(20, "sdxl", 4, "fp16", compiled=False),
            **shaped(30, "sd15", 1, "fp16", compiled=True),
            **shaped(30, "sdxl", 4, "fp16", compiled=True),
            **shaped(30, "sd15", 4, "fp16", compiled=True),
        },
    ),
    Section(
        "learn",
        50,
        "benchmarks.gpu.learning:measure",
        {"tiny-no": Case(30, {"precision": "no"}), "tiny-bf16": Case(30, {"precision": "bf16"})},
    ),
    Section(
        "serve",
        40,
        "benchmarks.gpu.serving:measure",
        {**shaped(30, "sd15", 8, "fp16"), **shaped(40, "sdxl", 8, "fp16")},
    ),
)
