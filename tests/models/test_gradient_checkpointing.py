"""Selective gradient checkpointing changes no bit, computes nothing expensive twice, and keeps
less.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.meters import KernelMeter
from lcm.adapter.lora import add_lora
from lcm.models import gradient_checkpointing as recompute
from lcm.models.gradient_checkpointing import EXPENSIVE, checkpoint_selectively
from lcm.models.networks import make_networks
from lcm.system.memory import LiveMemory
from tests.support.worlds import build_sdxl_unet, build_unet, inputs, randomize_lora

PRODUCTS = {"addmm", "mm", "convolution", "_scaled_dot_product_flash_attention_for_cpu"}
ALWAYS = 1
"""A value of EXPENSIVE by which every product is expensive. By the real one nothing is in networks
as small as these.
"""


def build(kind: str, trained: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """A U-Net in training and its roles, as a run makes them."""
    unet, autocast = build_unet() if kind == "sd" else build_sdxl_unet(), {}
    if trained == "full":
        unet.requires_grad_(True)
        if dtype != torch.float32:
            autocast = {"autocast": lambda: torch.autocast("cpu", dtype)}
    else:
        add_lora(unet.to(dtype), 4, dropout=0.5 if trained == "dropout" else 0.0)
        randomize_lora(unet)
    nets = make_networks(unet.train(), ema_decay=None, **autocast)
    nets.dropout_seed = 5 if trained == "dropout" else None
    return unet, nets


def outcome(unet: Any, nets: Any) -> list[Tensor]:
    """Loss and all gradients."""
    loss = nets.student(*inputs(unet)).square().mean()
    loss.backward()
    return [loss.detach(), *(p.grad for p in unet.parameters() if p.grad is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("trained", ["lora", "dropout", "full"])
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_loss_and_gradients_are_the_same_bits(
    kind: str, trained: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = outcome(*build(kind, trained, dtype))
    for expensive in (ALWAYS, 50):
        monkeypatch.setattr(recompute, "EXPENSIVE", expensive)
        unet, nets = build(kind, trained, dtype)
        unet.enable_gradient_checkpointing(checkpoint_selectively)
        recomputed = outcome(unet, nets)
        assert len(recomputed) == len(kept) > 100
        for ours, theirs in zip(recomputed, kept, strict=True):
            assert torch.equal(ours, theirs)


def products_and_memory(mode: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, int], int]:
    """The count of one forward and backward pass: how often each kind of product was computed, and
    what was alive between the two.
    """
    unet, nets = build("sd", "lora", torch.float32)
    if mode != "none":
        unet.enable_gradient_checkpointing(None if mode == "full" else checkpoint_selectively)
        monkeypatch.setattr(recompute, "EXPENSIVE", int(mode) if mode.isdigit() else EXPENSIVE)
    given = inputs(unet)
    with KernelMeter() as meter, LiveMemory() as memory:
        loss = nets.student(*given).square().mean()
        alive = memory.alive
        loss.backward()
    return {name: cost.kernels for name, cost in meter.by_name.items() if name in PRODUCTS}, alive


def test_what_is_expensive_is_computed_once_and_less_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, most = products_and_memory("none", monkeypatch)
    assert set(plain) == PRODUCTS
    once, kept = products_and_memory(str(ALWAYS), monkeypatch)
    assert once == plain
    assert kept < most
    between, middle = products_and_memory("50", monkeypatch)
    full, least = products_and_memory("full", monkeypatch)
    assert sum(plain.values()) < sum(between.values()) < sum(full.values())
    assert least < middle < kept


@pytest.mark.parametrize(("width", "again"), [(EXPENSIVE // 2, 0), (EXPENSIVE // 2 - 1, 1)])
def test_a_product_is_kept_from_1024_inputs_on(width: int, again: int) -> None:
    """2 FLOPs for each input, twice 1024 for each number of the result."""
    net = nn.Sequential(nn.Linear(width, 3), nn.SiLU())
    x = torch.randn(5, width, requires_grad=True)
    out = checkpoint_selectively(net, x)
    with KernelMeter() as meter:
        out.sum().backward()
    assert meter.by_name.keys() & {"addmm"} == ({"addmm"} if again else set())
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.autograd.grad(net(x).sum(), x)[0], rtol=0, atol=0)


def test_what_was_written_onto_a_kept_result_is_not_written_twice() -> None:
    class Accumulates(nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            total = x.mm(weight)
            total.view(-1).add_(1.0).mul_(0.5)
            return total.sin()

    x = torch.randn(4, EXPENSIVE, dtype=torch.float64)
    weight = torch.randn(EXPENSIVE, 3, dtype=torch.float64, requires_grad=True)
    checkpoint_selectively(Accumulates(), x, weight).sum().backward()
    expected = x.t() @ ((x @ weight + 1.0) / 2).cos() / 2
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, expected)
