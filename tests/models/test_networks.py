"""One U-Net in three roles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel

from lcm.adapter.lora import add_lora, lora_parameters
from lcm.models.ema import WeightEma
from lcm.models.networks import adapters_disabled, make_networks
from tests.support.worlds import build_sdxl_unet, build_unet, inputs, randomize_lora


@pytest.mark.parametrize("build", [build_unet, build_sdxl_unet])
def test_teacher_is_bit_equal_to_the_base_model_and_student_is_not(build: Any) -> None:
    base, unet = build(), build()
    add_lora(unet, 4)
    randomize_lora(unet)
    x, t, conditioning = inputs(unet)
    with torch.no_grad():
        expected = base(x, t, **conditioning.unet_kwargs()).sample
    nets = make_networks(unet, ema_decay=None)
    assert torch.equal(nets.teacher(x, t, conditioning), expected)
    assert not torch.allclose(nets.student(x, t, conditioning), expected)
    torch.testing.assert_close(
        nets.target(x, t, conditioning), nets.student(x, t, conditioning).detach()
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("build", [build_unet, build_sdxl_unet])
def test_gradients_reach_every_lora_tensor_and_nothing_else(
    build: Any, checkpointing: bool
) -> None:
    unet = build()
    add_lora(unet, 4)
    randomize_lora(unet)
    unet.train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    nets = make_networks(unet, ema_decay=0.9)
    x, t, conditioning = inputs(unet)
    nets.teacher(x, t, conditioning)
    nets.target(x, t, conditioning)
    nets.student(x, t, conditioning).square().mean().backward()
    for name, parameter in unet.named_parameters():
        if ".lora_" in name:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name


def test_checkpointing_does_not_change_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        unet = build_unet()
        add_lora(unet, 4)
        randomize_lora(unet)
        unet.train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        x, t, conditioning = inputs(unet)
        make_networks(unet, ema_decay=None).student(x, t, conditioning).square().mean().backward()
        gradients.append([p.grad for p in lora_parameters(unet)])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_teacher_and_target_build_no_graph() -> None:
    unet = build_unet()
    add_lora(unet, 4)
    nets = make_networks(unet, ema_decay=None)
    x, t, conditioning = inputs(unet)
    assert not nets.teacher(x, t, conditioning).requires_grad
    assert not nets.target(x, t, conditioning).requires_grad
    assert nets.student(x, t, conditioning).requires_grad


def test_adapters_come_back_on_after_an_error() -> None:
    unet = build_unet()
    add_lora(unet, 4)
    randomize_lora(unet)
    x, t, conditioning = inputs(unet)
    nets = make_networks(unet, ema_decay=None)
    before = nets.student(x, t, conditioning)
    with pytest.raises(ZeroDivisionError), adapters_disabled(unet):
        raise ZeroDivisionError
    assert torch.equal(nets.student(x, t, conditioning), before)
    assert all(p.requires_grad for p in lora_parameters(unet))


def test_the_decay_of_an_average_rises_as_that_of_diffusers() -> None:
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    ours = WeightEma([parameter], decay=0.4)
    theirs = EMAModel([parameter], decay=0.4)
    for update in range(1, 20):
        parameter.data += update
        ours.update(update)
        theirs.step([parameter])
        torch.testing.assert_close(ours.averages[0], theirs.shadow_params[0])
    assert ours.decay_at(2) < 0.4 == ours.decay_at(20)


def test_ema_target_uses_the_average_and_leaves_the_student_alone() -> None:
    unet = build_unet()
    add_lora(unet, 4)
    nets = make_networks(unet, ema_decay=0.5)
    x, t, conditioning = inputs(unet)
    randomize_lora(unet)  # the average still holds the first values, which have no effect
    student = nets.student(x, t, conditioning).detach()
    assert torch.equal(nets.target(x, t, conditioning), nets.teacher(x, t, conditioning))
    assert torch.equal(nets.student(x, t, conditioning).detach(), student)


def test_lora_stays_float32_on_a_low_precision_base() -> None:
    unet = build_unet().to(torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in add_lora(unet, 4))
    x, t, conditioning = inputs(unet)
    nets = make_networks(
        unet, ema_decay=None, autocast=lambda: torch.autocast("cpu", torch.bfloat16)
    )
    output = nets.student(x, t, conditioning)
    assert output.dtype == torch.float32
    output.mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in lora_parameters(unet))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "lora_rank must be a positive integer"),
        ({"rank": 4, "alpha": 0.0}, "lora_alpha must be positive"),
        (
            {"rank": 4, "targets": ["to_q", "to_nothing"]},
            "no linear or conv layer of the U-Net is named 'to_nothing'",
        ),
        ({"rank": 4, "targets": ["o_q"]}, "no linear or conv layer of the U-Net is named 'o_q'"),
        (
            {"rank": 4, "targets": ["attn1"]},
            "no linear or conv layer of the U-Net is named 'attn1'",
        ),
        (
            {"rank": 4, "targets": ["0"]},
            r"'0' also names down_blocks\.0, which is no linear or conv layer",
        ),
    ],
)
def test_impossible_adapters_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_lora(build_unet(), **arguments)
