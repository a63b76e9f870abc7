"""The dry run measures on the device what steps take there, and reads it as steps do; shown on the
meta device, at true size too, where no step would fit into the memory of a test.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from benchmarks.device_law.law import DeviceLaw
from benchmarks.device_law.runs import build_pipe, trainer_on
from lcm.dry_run import step_memory
from lcm.dry_run.memory_fit import AVERAGES, ENCODERS, MOMENTS, TRAINED, UNET
from lcm.dry_run.step_memory import count_step, measure_steps
from lcm.training.loop import Trainer
from lcm.training.step import ENCODED, UPDATED
from tests.support.runs import flags
from tests.support.worlds import build_sd


def trainer_of(pipe: Any, images: Path, folder: Path, **changes: Any) -> Trainer:
    values = {"train_batch_size": 2, "max_train_steps": 9, **changes}
    return trainer_on([pipe], flags(Path("teacher"), images, folder / "out", **values))


def test_measuring_steps_reads_no_more_than_the_steps(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where memory is tight and recomputing is tried out."""
    steps = itertools.count(1)
    made = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal made
        made = next(steps)
        return train_step(*args, **options)

    train_step = step_memory.train_step
    monkeypatch.setattr(step_memory, "train_step", counted)
    monkeypatch.setattr(step_memory, "TIGHT", 0.0)
    monkeypatch.setattr(step_memory, "PROBES", (2,))
    trainer = trainer_of(build_sd().to("meta"), images, tmp_path, target="ema")
    with DeviceLaw() as law:
        memory = measure_steps(trainer.run, trainer.state)
    assert memory is not None and [*memory.recomputing] == ["selective", "full"]
    held = {UNET, ENCODERS, TRAINED, MOMENTS, AVERAGES}
    assert all(memory.held[name] > 0 for name in held)
    assert law.reads.total() == made > len(memory.steps)
    assert {place.split()[-1] for place in law.reads} == {"check_finite"}


def test_a_step_of_true_size_is_counted_by_its_parts(images: Path, tmp_path: Path) -> None:
    """Stable Diffusion 1.5 at 512 pixels in bfloat16: of every picture the U-Net keeps a GB
    and more until the way back.
    """
    trainer = trainer_of(
        build_pipe("sd15"),
        images,
        tmp_path,
        **{"resolution": None, "mixed_precision": "bf16", "train_batch_size": 2},
    )
    with DeviceLaw():
        parts = count_step(trainer.run, trainer.state, 2)
    assert 0 < parts[ENCODED] < parts[UPDATED]
    assert 2e9 < parts[UPDATED] < 10e9
