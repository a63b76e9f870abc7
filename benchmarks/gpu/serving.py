"""Requests of mixed lengths on the card: continuous batching against stock calls, one by one and in
static batches, all requests there from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.drawing import pipe_with_adapter
from benchmarks.gpu.plan import Bench
from benchmarks.gpu.worlds import batch_of
from benchmarks.rounds import measure_seconds
from benchmarks.serve import (
    AGAIN,
    CONTINUOUS,
    ONE,
    STATIC,
    Continuous,
    Images,
    Stock,
    make_requests,
    simulate,
)

REQUESTS, TINY_REQUESTS = 16, 2


def measure(bench: Bench, model: str, batch: int, precision: str) -> dict[str, Any]:
    """Seconds for all requests, every way in turn, and the largest difference of a picture to the
    one that is drawn alone, in levels of 255: half precision rounds otherwise in another batch.
    """
    batch = batch_of(bench, batch)
    pipe = pipe_with_adapter(bench, model, precision)
    requests = make_requests(TINY_REQUESTS if bench.tiny else REQUESTS)
    ways: dict[str, Callable[[], Stock | Continuous]] = {
        ONE: lambda: Stock(pipe, 1),
        STATIC: lambda: Stock(pipe, batch),
        CONTINUOUS: lambda: Continuous(pipe, batch),
        AGAIN: lambda: Continuous(pipe, batch),
    }
    drawn: dict[str, Images] = {}

    def serve(name: str) -> Callable[[], None]:
        def work() -> None:
            done = simulate(ways[name](), requests, [0.0] * len(requests))
            drawn[name] = {number: image for number, _, image in done}

        return work

    seconds = measure_seconds(
        {name: serve(name) for name in ways},
        bench.rounds,
        bench.device.seconds,
        within=bench.within,
    )
    alone = {number: np.asarray(image, int) for number, image in drawn[ONE].items()}
    differences = {
        name: max(int(abs(np.asarray(images[n], int) - alone[n]).max()) for n in alone)
        for name, images in drawn.items()
    }
    return {
        "model": model,
        "batch": batch,
        "precision": precision,
        "requests": len(requests),
        "steps": sorted(request.num_inference_steps for request in requests),
        "largest_difference": differences,
        "seconds": seconds,
        "state": bench.device.state(),
    }
