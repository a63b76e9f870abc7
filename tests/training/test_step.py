"""The one training step: who makes it, and what it tells."""

from __future__ import annotations

from pathlib import Path

import torch

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


def test_the_averaged_target_moves_with_the_decay_of_its_progress(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    """CM's mu(k), exp(s_0 ln(mu_0) / N(k)), on a grid of 1 step and then of 2; after the first
    update nothing is kept, and this decay is below what the next ones may have.
    """
    line = {
        "objective": "ct",
        "discretization": "refined",
        "first_ddim_timesteps": 1,
        "num_ddim_timesteps": 2,
        "target": "ema",
        "ema_decay": 0.05,
        "ema_schedule": "cm",
        "guidance_scale": None,
        "validation_num_steps": [1],
        "max_train_steps": 4,
    }
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", **line))
    student, batches = trainer.state.student, trainer.run.inputs.batches(range(4))
    ema = student.nets.ema
    assert ema is not None
    for decay in (0.0, 0.05, 0.05 ** (2 / 3), 0.05 ** (2 / 3)):  # s_0 = 2 points
        before = [average.clone() for average in ema.averages]
        update(trainer, batches)
        for average, old, new in zip(ema.averages, before, student.parameters, strict=True):
            torch.testing.assert_close(average, decay * old + (1 - decay) * new.detach())
    pairs = zip(ema.averages, student.parameters, strict=True)
    assert any(not torch.allclose(average, new, rtol=1e-3) for average, new in pairs)
