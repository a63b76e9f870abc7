"""Measuring steps makes them, and moves nothing that the next depends on but the moments."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from lcm.dry_run.memory_fit import CRITICS
from lcm.dry_run.rehearse import rehearse
from lcm.dry_run.step_memory import measure_steps
from lcm.training.critics import Critics
from lcm.training.loop import Trainer
from tests.support.runs import flags, same, trained, trainer_of, update

AVERAGED: dict[str, Any] = {"target": "ema", "export_ema_decay": 0.9}
TAUGHT: dict[str, Any] = {"objective": "hyper", "dmd_start": 0.75, "validation_num_steps": 1}
"""A second network and heads learn beside it, the one from the last update on."""


def resumed(teacher: Path, images: Path, output: Path, **changes: Any) -> Trainer:
    """A run that goes on from its second update, with averages that are not what is trained."""
    line = flags(teacher, images, output, lr_scheduler="cosine", **AVERAGED, **changes)
    trainer = trainer_of(line)
    trained(trainer, 2)
    trainer.save()
    return trainer_of(line)


def seen(trainer: Trainer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights, averages and the state of the random numbers; all else that a step depends on but
    for the moments.
    """
    run, state, record = trainer.run, trainer.state, trainer.record()
    tensors = {
        name: tensor.detach().clone()
        for name, tensor in record.tensors.items()
        if not name.startswith(("optimizer.", "critics_optimizer."))
    }
    tensors["random"] = torch.get_rng_state()
    ema, export_ema = state.student.nets.ema, state.student.export_ema
    critics = state.critics
    others = {
        "facts": copy.deepcopy(record.facts),
        "place": (state.step, state.skipped),
        "rates": [group["lr"] for group in state.student.optimizer.param_groups],
        "critics": None if critics is None else rates_and_gradients(critics),
        "decays": [ema.decay for ema in (ema, export_ema) if ema is not None],
        "gradients": [p.grad for p in state.student.parameters],
        "prepared": state.student.nets.prepared,
        "accumulation": run.accumulation,
        "training": state.student.unet.training,
        "checkpointing": [
            m.__dict__.get("gradient_checkpointing") for m in state.student.unet.modules()
        ],
    }
    return tensors, others


def rates_and_gradients(critics: Critics) -> list[Any]:
    """Of an optimizer and its parameters."""
    rates = [group["lr"] for group in critics.optimizer.param_groups]
    return [*rates, *(p.grad for p in critics.parameters)]


def test_measuring_steps_moves_nothing_that_a_step_depends_on_but_the_moments(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights, averages, rates, place in the run, random numbers: also where memory is tight and
    recomputing is tried out. What is still to begin is measured, too.
    """
    trainer = resumed(sd_folder, images, tmp_path, gradient_accumulation_steps=2, **TAUGHT)
    ema = trainer.state.student.nets.ema
    assert ema is not None
    assert not torch.equal(ema.averages[1], trainer.state.student.parameters[1])
    tensors, others = seen(trainer)
    monkeypatch.setattr("lcm.dry_run.step_memory.TIGHT", 0.0)
    monkeypatch.setattr("lcm.dry_run.step_memory.PROBES", (2,))
    memory = measure_steps(trainer.run, trainer.state)
    assert memory is not None and list(memory.recomputing) == ["selective", "full"]
    tensors_after, others_after = seen(trainer)
    assert same(tensors_after, tensors)
    assert others_after == others
    critics = trainer.state.critics
    assert critics is not None
    assert memory.held[CRITICS] >= 3 * sum(p.nbytes for p in critics.parameters) > 0


def test_the_next_update_is_told_as_the_run_makes_it(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The run is a resumed one with an averaged target, and it stands afterwards where it stood."""
    brief = {**TAUGHT, "validation_prompts": "a"}
    trainer = resumed(sd_folder, images, tmp_path, **brief)
    place = seen(trainer)[1]["place"]
    with caplog.at_level("INFO"):
        rehearse(trainer.run, trainer.state)
    assert seen(trainer)[1]["place"] == place == (2, 0)
    again = resumed(sd_folder, images, tmp_path / "again", **brief)
    output = update(again, again.run.inputs.batches(range(2, 3)))
    loss, grad_norm = output.loss.mean().item(), float(output.grad_norm)
    assert f"loss {loss:.4f}, gradient norm {grad_norm:.4f}" in caplog.text
    assert "s with dmd, from update 4 on" in caplog.text
    assert "critics heads and fake_score" in caplog.text
