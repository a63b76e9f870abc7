"""The one training step: who makes it, and what it tells."""

from __future__ import annotations

from pathlib import Path

import lcm.dry_run.rehearse
import lcm.dry_run.step_memory
import lcm.training.loop
import lcm.training.step
from lcm.training.step import ENCODED, UPDATED, train_step
from tests.support.runs import flags, trainer_of, update


def test_the_loop_and_the_dry_run_make_the_same_step() -> None:
    for module in (lcm.training.loop, lcm.dry_run.step_memory, lcm.dry_run.rehearse):
        assert vars(module)["train_step"] is train_step


def test_a_step_tells_its_parts_and_what_it_saw(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", gradient_accumulation_steps=2))
    parts: list[str] = []
    run, state = trainer.run, trainer.state
    batches = run.inputs.batches(range(1))
    output = train_step(run, state, batches, lambda: True, parts.append)
    assert parts == [ENCODED, UPDATED, ENCODED, UPDATED, UPDATED]
    assert (output.loss.shape, output.times.shape, output.grad_norm.shape) == ((4,), (4,), ())
    assert output.stopping and state.step == 1
    assert all(p.grad is None for p in state.student.parameters)
    assert not update(trainer, run.inputs.batches(range(1, 2))).stopping
