"""Contenders for which there is no memory."""

from __future__ import annotations

import time
import weakref
from functools import partial

import pytest
import torch

from benchmarks.contenders import Contender
from benchmarks.device import Device
from benchmarks.gpu.plan import Bench
from benchmarks.gpu.steps import begin
from benchmarks.rounds import measure_seconds


def test_a_contender_without_memory_is_named_and_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """When room is made for the next one, nothing holds it any more, nor what its step had made."""
    held: dict[str, weakref.ref[torch.Tensor]] = {}
    gone: list[list[str]] = []

    def make(name: str, fails: bool) -> Contender:
        adapter = torch.nn.Parameter(torch.ones(2))
        held[name] = weakref.ref(adapter)

        def step() -> None:
            activations = adapter * 2.0
            held[f"activations of {name}"] = weakref.ref(activations)
            if fails:
                raise torch.OutOfMemoryError("CUDA out of memory")

        return Contender(step, lambda: adapter * 1.0 @ adapter, [adapter], list)

    def clear(_: Device) -> None:
        gone.append(sorted(name[-1] for name, reference in held.items() if reference() is None))

    monkeypatch.setattr(Device, "clear", clear)
    bench = Bench(Device(torch.device("cpu")), True, time.perf_counter() + 60.0)
    makers = {name: partial(make, name, fails=name != "b") for name in "abc"}
    contenders, facts, failed = begin(bench, makers, 1.0)
    assert list(contenders) == list(facts) == ["b"]
    assert failed == {"a": "out of memory", "c": "out of memory"}
    # both of a; then those of c, and what the step of b had made
    assert gone == [["a", "a"], ["a", "a", "b", "c", "c"]]


def test_nothing_to_time_takes_no_time() -> None:
    assert measure_seconds({}, 3) == {}
