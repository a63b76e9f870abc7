"""--mixed_precision: what is low and what is float32, and how far the loss is from that of
float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from lcm.training.inputs import DTYPES
from lcm.training.launch import make_accelerator
from lcm.training.loop import Trainer
from tests.support.launches import forget_launch
from tests.support.runs import encoded, flags, trainer_of, update
from tests.support.worlds import randomize_lora

LOW = ("bf16", "fp16")
TOLERANCE = {"bf16": 0.05, "fp16": 0.01}
"""Relative difference of a sample's loss: 8 and 11 bits, and the roundings of three passes of some
50 layers each.
"""


@pytest.fixture(params=["sd", "sdxl"])
def teacher(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{request.param}_folder")


def make_trainer(
    teacher: Path, images: Path, folder: Path, precision: str, **changes: Any
) -> Trainer:
    forget_launch()
    trainer = trainer_of(
        flags(teacher, images, folder / "out", mixed_precision=precision, **changes)
    )
    randomize_lora(trainer.state.student.unet)
    return trainer


@pytest.mark.parametrize("precision", LOW)
def test_frozen_weights_are_low_and_all_that_is_trained_is_float32(
    precision: str, teacher: Path, images: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(teacher, images, tmp_path, precision)
    update(trainer, trainer.run.inputs.batches(range(1)))
    low, student = DTYPES[precision], trainer.state.student
    frozen = [p for p in student.unet.parameters() if not p.requires_grad]
    encoders = [p for encoder in trainer.run.family.text_encoders() for p in encoder.parameters()]
    assert {p.dtype for p in [*frozen, *encoders]} == {low}
    # its configuration says force_upcast
    assert {p.dtype for p in trainer.run.family.pipe.vae.parameters()} == {torch.float32}
    moments = [
        v
        for values in student.optimizer.state.values()
        for v in values.values()
        if isinstance(v, Tensor)
    ]
    assert len(moments) == 3 * len(student.parameters)
    assert {t.dtype for t in [*student.parameters, *moments]} == {torch.float32}


@pytest.mark.parametrize("precision", LOW)
def test_no_frozen_weight_is_kept_twice(
    precision: str, teacher: Path, images: Path, tmp_path: Path
) -> None:
    """What the U-Net's layers hold after a step, attributes included: two bytes for a frozen
    number; of the adapter's four, and two for the copy that the passes read.
    """
    trainer = make_trainer(teacher, images, tmp_path, precision)
    update(trainer, trainer.run.inputs.batches(range(1)))
    found: dict[int, int] = {}
    for module in trainer.state.student.unet.modules():
        attributes = [
            v
            for value in vars(module).values()
            for v in (value if isinstance(value, tuple | list) else [value])
        ]
        for tensor in [
            *module.parameters(recurse=False),
            *module.buffers(recurse=False),
            *attributes,
        ]:
            if isinstance(tensor, Tensor):
                found[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
    frozen = sum(p.numel() for p in trainer.state.student.unet.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in trainer.state.student.parameters)
    assert sum(found.values()) == 2 * frozen + (4 + 2) * trained


@pytest.mark.parametrize("precision", LOW)
def test_the_loss_is_that_of_float32_up_to_rounding(
    precision: str, teacher: Path, images: Path, tmp_path: Path
) -> None:
    losses, gradients = [], []
    for name in ("no", precision):
        trainer = make_trainer(teacher, images, tmp_path, name)
        batch = next(trainer.run.inputs.batches(range(1)))
        per_sample = trainer.run.objective(trainer.state.student.nets, encoded(trainer, batch)).loss
        per_sample.mean().backward()
        losses.append(per_sample.detach())
        gradients.append(
            torch.cat(
                [p.grad.flatten() for p in trainer.state.student.parameters if p.grad is not None]
            )
        )
    assert {t.dtype for t in [*losses, *gradients]} == {torch.float32}
    assert not torch.equal(*losses)
    torch.testing.assert_close(losses[1], losses[0], rtol=TOLERANCE[precision], atol=0)


@pytest.mark.parametrize("exponent", [0, 60])
def test_an_update_that_overflows_is_skipped_and_halves_the_scale(
    exponent: int, sd_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer with the loss scaler that accelerate adds on GPUs, and a scale that fits or that no
    half-precision gradient survives.
    """

    def with_scaler(*sections: Any) -> Accelerator:
        accelerator = make_accelerator(*sections)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**exponent)
        return accelerator

    monkeypatch.setattr("lcm.training.launch.make_accelerator", with_scaler)
    trainer = make_trainer(sd_folder, images, tmp_path, "fp16", lr_scheduler="linear")
    before = [p.detach().clone() for p in trainer.state.student.parameters]
    rate = trainer.state.lr_scheduler.get_last_lr()
    update(trainer, trainer.run.inputs.batches(range(1)))
    same = all(
        torch.equal(p, old) for p, old in zip(trainer.state.student.parameters, before, strict=True)
    )
    skipped = exponent == 60
    assert (same, trainer.state.skipped, trainer.state.lr_scheduler.get_last_lr() == rate) == (
        skipped,
        int(skipped),
        skipped,
    )
    assert trainer.state.step == 1
    assert trainer.run.machine.accelerator.scaler is not None
    assert trainer.run.machine.accelerator.scaler.get_scale() == (2.0**59 if skipped else 1.0)
