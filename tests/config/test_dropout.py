"""Dropout inside the adapter: the same for student and target, and out of pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import train_lcm_lora
from lcm.adapter.lora import add_lora, lora_parameters
from lcm.models.networks import make_networks
from tests.support.options import (
    Arguments,
    Done,
)
from tests.support.outputs import weights_at
from tests.support.runs import trainer_of
from tests.support.worlds import build_unet, inputs, randomize_lora


def dropping(seed: int | None, checkpointing: bool = False) -> tuple[Any, Callable[[str], Tensor]]:
    """A U-Net with dropout in training, and the answer of one of its roles to fixed inputs."""
    unet = build_unet()
    add_lora(unet, 4, dropout=0.5)
    randomize_lora(unet)
    unet.train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    nets = make_networks(unet, ema_decay=None)
    nets.dropout_seed = seed
    fixed = inputs(unet)
    return unet, lambda role: getattr(nets, role)(*fixed)


def test_student_and_target_drop_the_same_and_another_seed_drops_otherwise() -> None:
    _, answer = dropping(1)
    student = answer("student").detach()
    assert torch.equal(answer("target"), student)
    assert torch.equal(answer("student").detach(), student)
    _, other = dropping(2)
    assert not torch.allclose(other("student"), student)
    assert torch.equal(other("teacher"), answer("teacher"))


def test_masks_leave_the_other_random_numbers_alone() -> None:
    _, answer = dropping(1)
    before = torch.get_rng_state()
    answer("student")
    answer("target")
    assert torch.equal(torch.get_rng_state(), before)


def test_recomputed_activations_drop_the_same() -> None:
    gradients = []
    for checkpointing in (False, True):
        unet, answer = dropping(1, checkpointing)
        answer("student").square().mean().backward()
        gradients.append([p.grad for p in lora_parameters(unet)])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_dropout_takes_part_in_training(done: Done, arguments: Arguments, tmp_path: Path) -> None:
    without = tmp_path / "without"
    assert (
        train_lcm_lora.main(arguments("dropout", without, lora_dropout=0.0, max_train_steps=1)) == 0
    )
    assert any(
        not torch.equal(a, b)
        for a, b in zip(weights_at(without, 1), weights_at(done("dropout"), 1), strict=True)
    )


def test_pictures_are_drawn_without_dropout(arguments: Arguments, tmp_path: Path) -> None:
    drawn = []
    for rate in (0.0, 0.5):
        trainer = trainer_of(arguments("dropout", tmp_path / str(rate), lora_dropout=rate))
        randomize_lora(trainer.state.student.unet)
        trainer.run.config.output.folder.mkdir()
        trainer.run.publisher.validate(7)
        assert trainer.state.student.unet.training
        drawn.append(
            np.asarray(
                Image.open(trainer.run.config.output.folder / "validation" / "step-000007.png")
            )
        )
    assert np.array_equal(*drawn)
    assert drawn[0].std() > 0
