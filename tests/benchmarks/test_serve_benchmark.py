"""The arithmetic of the benchmark of serving: its clock, its static batches, what it refuses to
time.
"""

from __future__ import annotations

from typing import Any

import pytest
from diffusers import LCMScheduler

from benchmarks import serve
from benchmarks.serve import (
    AGAIN,
    CONTINUOUS,
    ONE,
    STATIC,
    Stock,
    check_agreement,
    make_requests,
    measure,
    serve_table,
    simulate,
)
from lcm import Request
from tests.support.worlds import build_sd


@pytest.fixture
def pipe() -> Any:
    pipe = build_sd()
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


def test_the_clock_moves_by_the_work_and_to_the_next_arrival(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class TwoSecondsEach(Stock):
        def work(self) -> dict[int, Any]:
            clock[0] += 2.0
            number = next(iter(self.waiting))
            return {number: self.waiting.pop(number)}

    clock = [100.0]
    monkeypatch.setattr("time.process_time", lambda: clock[0])
    requests = [Request("x", seed) for seed in range(4)]
    found = list(simulate(TwoSecondsEach(None, 1), requests, [1.0, 1.5, 2.0, 20.0]))
    assert [(number, at) for number, at, _ in found] == [(0, 3.0), (1, 5.0), (2, 7.0), (3, 22.0)]


def test_a_static_batch_is_the_oldest_request_and_those_of_as_many_steps() -> None:
    calls: list[tuple[list[str], int]] = []

    class Pipe:
        def __call__(self, prompts: list[str], num_inference_steps: int, **_: Any) -> Any:
            calls.append((prompts, num_inference_steps))
            return type("Output", (), {"images": prompts})

    server = Stock(Pipe(), 2)
    for number, (name, steps) in enumerate([("a", 4), ("b", 1), ("c", 4), ("d", 4), ("e", 1)]):
        server.submit(number, Request(name, num_inference_steps=steps))
    assert [server.work() for _ in range(3)] == [{0: "a", 2: "c"}, {1: "b", 4: "e"}, {3: "d"}]
    assert calls == [(["a", "c"], 4), (["b", "e"], 1), (["d"], 4)]


def test_all_draw_the_same_rows_in_fewer_calls(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = make_requests(8)
    found = check_agreement(pipe, requests)
    assert {name: (cost["unet_calls"], cost["unet_rows"]) for name, cost in found.items()} == {
        ONE: (30, 30),
        STATIC: (15, 30),
        CONTINUOUS: (8, 30),
    }
    monkeypatch.setattr(serve, "TOLERANCE", -1)
    with pytest.raises(ValueError, match="other pictures"):
        check_agreement(pipe, requests)


def test_the_table_has_every_way_of_serving_and_its_noise(pipe: Any) -> None:
    results = measure(pipe, make_requests(2), rounds=1)
    assert list(results["seconds"]) == [ONE, STATIC, CONTINUOUS, AGAIN]
    results["seconds"] = {ONE: [2.0], STATIC: [1.0], CONTINUOUS: [0.5], AGAIN: [0.5]}
    lines = serve_table(results).splitlines()
    assert lines[2].startswith(f"| {ONE} | 1.0 | 1.00 (1.00 to 1.00) | 3 | ")
    assert lines[4].startswith(f"| {CONTINUOUS} | 4.0 | 4.00 (4.00 to 4.00) | 2 | ")
    assert len(lines) == 6
