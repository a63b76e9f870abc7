"""Which of the trained weights and their averages are drawn with, and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.runs import flags, trainer_of, update


@pytest.mark.parametrize(
    ("given", "which"),
    [
        ({}, "target"),
        ({"objective": "cd"}, "target"),
        ({"target": "online"}, "trained"),
        ({"objective": "scm"}, "trained"),
        ({"export_ema_decay": 0.0}, "trained"),
        ({"export_ema_decay": 0.5}, "own"),
        ({"target": "online", "export_ema_decay": 0.5}, "own"),
    ],
    ids=str,
)
def test_the_targets_average_is_exported_unless_another_is_asked_for(
    given: dict[str, Any], which: str, sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", **given))
    batches = trainer.run.inputs.batches(range(3))
    for _ in range(3):
        update(trainer, batches)
    student = trainer.state.student
    trained = [p.detach().clone() for p in student.parameters]
    kept = {
        "trained": trained,
        "target": student.nets.ema.averages if student.nets.ema else None,
        "own": student.export_ema.averages if student.export_ema else None,
    }
    with student.drawing():
        drawn = [p.detach().clone() for p in student.parameters]
    expected = kept[which]
    assert expected is not None
    assert all(map(torch.equal, drawn, expected))
    assert all(map(torch.equal, (p.detach() for p in student.parameters), trained))
    if which != "trained":
        assert not all(map(torch.equal, drawn, trained))
