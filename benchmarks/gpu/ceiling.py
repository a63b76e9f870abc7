"""What the card can do at all: the ceilings that everything else is read against."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.plan import Bench

SIDE, TINY_SIDE = 8192, 64
REPEATS = 10
"""Products in one timing."""
COPY, TINY_COPY = 2**30, 2**16
"""Numbers of 4 bytes."""


def measure(bench: Bench) -> dict[str, Any]:
    """Large matrix products of random numbers, and a large copy: TFLOP/s and TB/s of every round.

    Bytes are those that are read and those that are written.
    """
    side, count = (TINY_SIDE, TINY_COPY) if bench.tiny else (SIDE, COPY)
    result: dict[str, Any] = {"side": side, "tflops": {}}
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        a, b = (torch.randn(side, side, device=bench.device.torch).to(dtype) for _ in range(2))
        out = torch.empty_like(a)

        def multiply(a: Any = a, b: Any = b, out: Any = out) -> None:
            for _ in range(REPEATS):
                torch.mm(a, b, out=out)

        seconds = rounds(bench, multiply)
        result["tflops"][name] = [2 * side**3 * REPEATS / taken / 1e12 for taken in seconds]
    source = torch.randn(count, device=bench.device.torch)
    target = torch.empty_like(source)
    seconds = rounds(bench, lambda: target.copy_(source))
    result["copy_tb_per_second"] = [2 * source.nbytes / taken / 1e12 for taken in seconds]
    return result


def rounds(bench: Bench, work: Any) -> list[float]:
    """Seconds of every round, after three that warm up."""
    for _ in range(3):
        work()
    return [bench.device.seconds(work) for _ in range(bench.rounds)]
