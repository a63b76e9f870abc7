"""The meters obey hand counts, and the full-size training step stays within its limits."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.counts import (
    GIGA,
    TERA,
    build_unet,
    count_encoders,
    count_step,
    counts_table,
    fit_table,
)
from benchmarks.meters import KernelMeter, extent
from benchmarks.published import MODELS
from lcm.adapter.lora import layers_named
from lcm.adapter.names import LORA_TARGETS
from lcm.system.memory import LiveMemory, memory_of

# --- meters


def test_a_matrix_product_is_one_kernel_of_2mnk() -> None:
    layer, x = nn.Linear(5, 7, device="meta"), torch.empty(3, 5, device="meta")
    with KernelMeter() as meter:
        layer(x)
    cost = meter.total()
    assert list(meter.by_name) == ["addmm"]
    assert (cost.kernels, cost.flops, cost.bytes) == (
        1,
        2 * 3 * 5 * 7,
        4 * (3 * 5 + 5 * 7 + 7 + 3 * 7),
    )
    with KernelMeter() as meter:
        torch.empty(3, 7, device="meta").addmm_(x, layer.weight.t())
    cost = meter.total()
    assert (cost.kernels, cost.flops, cost.bytes) == (
        1,
        2 * 3 * 5 * 7,
        4 * (3 * 7 + 3 * 5 + 5 * 7 + 3 * 7),
    )


def test_views_and_allocations_launch_nothing() -> None:
    x = torch.empty(4, 6, device="meta")
    with KernelMeter() as meter:
        x.t().reshape(2, 12)  # a transposed matrix must be copied to be reshaped
        torch.empty_like(x).view(-1)[:3].unsqueeze(0).expand(5, 3).detach()
        x.add_(1.0)
    assert {name: cost.kernels for name, cost in meter.by_name.items()} == {"clone": 1, "add_": 1}
    assert meter.by_name["add_"].bytes == 2 * 4 * 24


def test_what_is_repeated_or_overwritten_is_not_read() -> None:
    assert extent(torch.empty(1, 3, device="meta").expand(8, 3)) == 12
    with KernelMeter() as meter:
        torch.empty(6, device="meta", dtype=torch.float16).copy_(torch.empty(6, device="meta"))
        torch._foreach_copy_(
            [torch.empty(6, device="meta", dtype=torch.float16)], [torch.empty(6, device="meta")]
        )
    assert {name: (cost.kernels, cost.bytes) for name, cost in meter.by_name.items()} == {
        "copy_": (1, 6 * (4 + 2)),
        "_foreach_copy_": (1, 6 * (4 + 2)),
    }


def test_a_graph_keeps_alive_what_it_needs_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).to("meta")
    with LiveMemory() as memory:
        out = net(torch.empty(3, 4, device="meta"))
        # x; the output of tanh, which tanh and the second layer keep; the result
        assert memory.alive == 4 * (12 + 12 + 6)
        del out
    assert memory.alive == 0


def test_live_memory_is_the_peak_of_what_was_made() -> None:
    x = torch.zeros(100)
    with LiveMemory() as memory:
        y = x + 1.0
        y.view(10, 10).t()
        for _ in range(3):
            y = y * 2.0
        assert memory.alive == 400
    assert memory.peak == 800
    assert memory_of([x, x[:3], y]) == 800


# --- the step


def test_the_models_are_the_published_ones() -> None:
    """Parameters and adapted layers of the official LCM-LoRAs: 278 for SD 1.5, 788 for SDXL."""
    for name, parameters, layers in (
        ("sd15", 859_520_964, 278),
        ("sd21", 865_910_724, 278),
        ("sdxl", 2_567_463_684, 788),
    ):
        unet = build_unet(MODELS[name])
        assert sum(p.numel() for p in unet.parameters()) == parameters
        assert len(layers_named(unet, LORA_TARGETS)) == layers


@functools.cache
def counted(name: str) -> dict[str, Any]:
    return count_step(MODELS[name])


@pytest.fixture
def step() -> dict[str, Any]:
    return counted("sd15")


@pytest.mark.parametrize(
    ("name", "trained", "flops", "kernels", "moved", "saved"),
    [("sd15", 67.25e6, 5.31, 7000, 24, 1.0), ("sdxl", 196.75e6, 43.5, 16_700, 160, 7.1)],
)
def test_a_step_stays_within_its_limits(
    name: str, trained: float, flops: float, kernels: int, moved: float, saved: float
) -> None:
    step = counted(name)
    assert step["trained_parameters"] == pytest.approx(trained, rel=1e-3)
    assert step["flops_per_image"] <= flops * TERA
    assert step["kernels"] <= kernels
    assert step["bytes_per_image"] <= moved * GIGA
    assert step["saved_bytes_per_image"] <= saved * GIGA


def test_work_per_image_does_not_grow_with_the_batch(step: dict[str, Any]) -> None:
    one = count_step(MODELS["sd15"], 1)
    # other layers of the target are summed up first
    assert one["kernels"] == pytest.approx(step["kernels"], rel=0.04)
    # what the target's sums W + B A cost is shared; where a batch of one is too small for them, it
    # does without
    assert step["flops_per_image"] < one["flops_per_image"] < 1.02 * step["flops_per_image"]
    assert one["bytes_per_image"] > step["bytes_per_image"]  # the weights are read once a pass


def test_a_step_without_a_cache_adds_the_encoders(step: dict[str, Any]) -> None:
    encoders = count_encoders(MODELS["sd15"], 2)
    assert encoders["vae"]["flops_per_image"] > 10 * encoders["text"]["flops_per_image"] > 0
    results = {
        "models": {
            "a": {"title": "A", "step": step, "checkpointing": {"full": step}, "encoders": encoders}
        }
    }
    assert counts_table(results).count("\n") == 5


def test_selective_checkpointing_keeps_a_third_for_few_flops(step: dict[str, Any]) -> None:
    selective = count_step(MODELS["sd15"], checkpointing="selective")
    assert selective["saved_bytes_per_image"] <= 0.35 * step["saved_bytes_per_image"]
    assert selective["peak_bytes_per_image"] <= 0.42 * step["peak_bytes_per_image"]
    assert step["flops_per_image"] < selective["flops_per_image"] <= 1.04 * step["flops_per_image"]
    assert selective["kernels"] <= 1.15 * step["kernels"]


def test_the_largest_batch_is_what_is_left_by_what_an_image_takes() -> None:
    """A card of 24 GB with 1.5 GB reserved, 2 x 3 GB frozen, 4 x 0.5 GB of the VAE, 20 x 0.5 GB
    trained: 4.5 GB are left for images of 2 GB, with a cache 4 GB more, with moments of 8 bits 2.98
    GB on top; on 16 GB nothing fits without those.
    """
    step = {"parameters": 2e9, "trained_parameters": 0.5e9, "peak_bytes_per_image": 2e9}
    encoders = {"text": {"parameters": 1e9}, "vae": {"parameters": 0.5e9}}
    half = {"peak_bytes_per_image": 1e9}
    results = {
        "models": {
            "a": {
                "title": "A at 8",
                "step": step,
                "checkpointing": {"full": half},
                "encoders": encoders,
            }
        }
    }
    rows = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:]
        for line in fit_table(results).splitlines()
    }
    assert rows["largest batch"] == ["A, no", "A, full"]
    cached, both = "--cache_latents", "--cache_latents --use_8bit_adam"
    assert [rows["24 GB"], rows[f"24 GB, {cached}"], rows[f"24 GB, {both}"]] == [
        ["2", "4"],
        ["4", "8"],
        ["5", "11"],
    ]
    assert [rows["16 GB"], rows[f"16 GB, {cached}"], rows[f"16 GB, {both}"]] == [
        ["-", "-"],
        ["-", "-"],
        ["1", "3"],
    ]
