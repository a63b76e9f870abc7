"""The device law itself: what would cost a GPU its time, or fail there, raises or is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.device_law.law import META, DeviceLaw, DeviceLawError, remembered
from lcm.system.transfers import fetched, sent

aten = torch.ops.aten
READS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "a list": lambda x: x.tolist(),
    "a branch": lambda x: bool(x.any()),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "a format": lambda x: f"{x.sum():.3f}",
    "a mask": lambda x: x[x > 0],
    "places": lambda x: x.nonzero(),
    "a choice by the host": lambda x: torch.zeros(3)[x.long()[0]],
    "equality": lambda x: torch.equal(x, x),
    "a number of a kernel": lambda x: torch.add(x, x, alpha=x[0]),
    "writing by a mask": lambda x: x.__setitem__(x > 0, x),
    "an inverse": lambda x: torch.linalg.inv(x * x[:, None]),
}
"""What needs the values of a tensor x [3] on the device."""
LEFT: dict[str, Callable[[Tensor], Any]] = {
    "a sum": lambda x: x + torch.zeros(3),
    "a product": lambda x: x[None] @ torch.zeros(3, 2),
    "rows": lambda x: x[torch.tensor([0, 1])],
    "a mask": lambda x: x[torch.tensor([True, False, True])],
    "a concatenation": lambda x: torch.cat([x, torch.zeros(3)]),
    "weights": nn.Linear(3, 3),
    "a result of the CPU's": lambda x: torch.zeros(3).copy_(x),
}
"""What computes with a tensor that was left on the CPU."""


@pytest.mark.parametrize("name", READS)
def test_whatever_reads_the_device_raises(name: str) -> None:
    x = torch.empty(3, device=META)
    with pytest.raises((DeviceLawError, NotImplementedError, TypeError)), DeviceLaw():
        READS[name](x)


@pytest.mark.parametrize("name", LEFT)
def test_whatever_was_left_on_the_cpu_raises(name: str) -> None:
    x = torch.empty(3, device=META)
    with pytest.raises((DeviceLawError, NotImplementedError, RuntimeError)), DeviceLaw():
        LEFT[name](x)


def test_what_is_read_on_purpose_is_counted_and_stands_for_itself() -> None:
    with DeviceLaw(2.0) as law:
        assert fetched(torch.empty(2, device=META)).tolist() == [2.0, 2.0]
        assert fetched(torch.ones(2)).tolist() == [1.0, 1.0]  # on the CPU already
    assert law.reads.total() == 1
    assert all(place.startswith("outside") for place in law.reads)


def test_copies_to_the_device_are_counted_by_whether_the_host_waits() -> None:
    x = torch.zeros(3)
    with DeviceLaw() as law:
        sent(x, META)
        x.to(META, non_blocking=True)
        assert (law.sent.total(), law.waits.total()) == (2, 0)
        x.to(META)
        torch.empty(3, device=META).copy_(x)
        torch.tensor([1.0, 2.0], device=META)
        torch.as_tensor([1.0, 2.0], device=META)
        torch.empty(3, device=META).new_tensor([1.0])
        torch.empty(3, 3, device=META)[:, [0, 1]]
        torch.empty(3, device=META)[range(2)] = 1.0
        torch.empty(3, device=META)[1:] = 1.0
        torch.empty(3, device=META)[torch.empty(3, device=META) > 0] = 1.0
    assert (law.sent.total(), law.waits.total()) == (2, 7)


def test_numbers_on_the_cpu_are_counted() -> None:
    with DeviceLaw() as law:
        torch.empty(3, device=META) * torch.tensor(2.0)
        torch.empty(3, device=META) * 2.0
    assert law.scalars.total() == 1


def test_what_is_remembered_is_what_the_operation_gives() -> None:
    """Shape, strides and dtype, also of several results; equal numbers of two kinds apart."""
    x, w = torch.empty(2, 4, 6, 6, device=META), torch.empty(4, device=META)
    whole = torch.empty(3, dtype=torch.int64, device=META)
    stats, kernel = torch.empty(2, 2, device=META), torch.empty(4, 4, 1, 1, device=META)
    backward = aten.convolution_backward.default
    norm = aten.native_group_norm_backward.default
    calls = [
        (aten.mul.Tensor, (x.to(memory_format=torch.channels_last), 2.0)),
        (aten.mul.Tensor, (whole, 2)),
        (aten.mul.Tensor, (whole, 2.0)),
        (aten.native_group_norm.default, (x, w, w, 2, 4, 36, 2, 1e-5)),
        (norm, (x, x, stats, stats, w, 2, 4, 36, 2, [True, True, False])),
        (
            backward,
            (x, x, kernel, [0], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, False, False]),
        ),
        (aten.view.default, (x, [2, -1])),
    ]
    for func, args in calls:
        expected = func(*args)
        for found in (remembered(func, args, {}), remembered(func, args, {})):
            pairs = zip(*map(as_tuple, (found, expected)), strict=True)
            for one, other in pairs:
                assert (one is None) == (other is None)
                if one is not None:
                    assert (one.shape, one.stride()) == (other.shape, other.stride())
                    assert (one.dtype, one.device) == (other.dtype, META)
    assert remembered(aten.add_.Tensor, (x, 1.0), {}) is x
    assert remembered(aten.add_.Tensor, (x, 1.0), {}) is x


def as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
