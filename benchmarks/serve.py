"""Requests of mixed lengths: continuous batching against stock calls, one by one and in static
batches: `results/serve.json`.

    OMP_NUM_THREADS=1 python -m benchmarks.serve

The tiny teacher with its LCM-LoRA draws 64 requests of 1, 2, 4 and 8 steps. First the pictures are
compared; nothing is timed unless they agree. One by one is a stock call each. A static batch is a
stock call for the request that has waited longest and all waiting ones of as many steps. All serve
in turn in one process, in changing order: once with all requests there from the start, for
throughput, once with requests that come over time, for latency. The clock is simulated: it moves by
the process time that the work took, and to the next arrival when there is none. Continuous batching
is there once more: the second one's distance from the first is the noise.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

import lcm
from benchmarks.methods.tables import table
from benchmarks.methods.teacher import write_json
from benchmarks.rounds import Clock, process_seconds, ratio
from examples.shapes.demo import HERE as SHAPES
from examples.shapes.demo import TEACHER
from lcm import Engine, Request

RESULTS = Path(__file__).parent / "results"
NAME = "serve.json"
ADAPTER = SHAPES / "lcm_lora"
ONE = "one by one"
STATIC = "static batches"
CONTINUOUS = "continuous batching"
AGAIN = "continuous batching again"
STEPS = (1, 2, 4, 8)
LOADS = (0.5, 0.9)
"""Arrivals per second, in units of what one by one draws per second."""
QUANTILES = (0.5, 0.95)
BATCH = 8
TOLERANCE = 2
"""Largest difference of pictures in levels of 0 to 255."""

Images = dict[int, Any]
Work = Callable[[], Images]
"""Some work for the requests there are -> the images that are finished by it, by number."""


def make_requests(count: int) -> list[Request]:
    """As many of every number of steps, shuffled."""
    steps = [STEPS[i % len(STEPS)] for i in range(count)]
    random.Random(0).shuffle(steps)
    prompts = (SHAPES / "prompts.txt").read_text().splitlines()
    return [Request(prompts[7 * i % len(prompts)], i, n) for i, n in enumerate(steps)]


class Stock:
    """Static batches of up to `size`, of the request that has waited longest and those of as many
    steps.
    """

    def __init__(self, pipe: Any, size: int) -> None:
        self.pipe, self.size = pipe, size
        self.waiting: dict[int, Request] = {}

    def submit(self, number: int, request: Request) -> None:
        self.waiting[number] = request

    def work(self) -> Images:
        steps = next(iter(self.waiting.values())).num_inference_steps
        numbers = [
            number
            for number, request in self.waiting.items()
            if request.num_inference_steps == steps
        ][: self.size]
        batch = [self.waiting.pop(number) for number in numbers]
        images = self.pipe(
            [request.prompt for request in batch],
            num_inference_steps=steps,
            guidance_scale=1.0,
            generator=[torch.Generator().manual_seed(request.seed) for request in batch],
        ).images
        return dict(zip(numbers, images, strict=True))


class Continuous:
    """Continuous batching."""

    def __init__(self, pipe: Any, size: int) -> None:
        self.engine = Engine(pipe, max_batch=size)
        self.futures: dict[int, Future[Any]] = {}

    def submit(self, number: int, request: Request) -> None:
        self.futures[number] = self.engine.submit(request)

    def work(self) -> Images:
        self.engine.step()
        done = [number for number, future in self.futures.items() if future.done()]
        return {number: self.futures.pop(number).result() for number in done}


MAKERS: dict[str, Callable[[Any], Stock | Continuous]] = {
    ONE: lambda pipe: Stock(pipe, 1),
    STATIC: lambda pipe: Stock(pipe, BATCH),
    CONTINUOUS: lambda pipe: Continuous(pipe, BATCH),
    AGAIN: lambda pipe: Continuous(pipe, BATCH),
}


def simulate(
    server: Stock | Continuous,
    requests: list[Request],
    arrivals: list[float],
    seconds: Clock = process_seconds,
) -> Iterator[tuple[int, float, Any]]:
    """Number, time of finishing and image of every request, on the simulated clock, which moves by
    the `seconds` of the work.
    """
    images: Images = {}

    def work() -> None:
        images.update(server.work())

    clock, coming, under_way = 0.0, list(enumerate(requests)), 0
    while coming or under_way:
        if not under_way:
            clock = max(clock, arrivals[coming[0][0]])
        while coming and arrivals[coming[0][0]] <= clock:
            server.submit(*coming.pop(0))
            under_way += 1
        images.clear()
        clock += seconds(work)
        under_way -= len(images)
        for number, image in images.items():
            yield number, clock, image


def poisson(rate: float, count: int, seed: int) -> list[float]:
    """Times of arrival at random, `rate` a second, with a seed."""
    draw = random.Random(seed)
    return list(accumulate(draw.expovariate(rate) for _ in range(count)))


def check_agreement(pipe: Any, requests: list[Request]) -> dict[str, dict[str, int]]:
    """U-Net calls and rows, and the largest difference to one by one. Raises ValueError where the
    pictures are others.
    """
    rows: list[int] = []
    hook = pipe.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    found: dict[str, dict[str, int]] = {}
    wanted: Images = {}
    for name in (ONE, STATIC, CONTINUOUS):
        rows.clear()
        images = {
            number: np.asarray(image, int)
            for number, _, image in simulate(MAKERS[name](pipe), requests, [0.0] * len(requests))
        }
        wanted = wanted or images
        off = max(int(abs(images[number] - wanted[number]).max()) for number in wanted)
        if off > TOLERANCE:
            raise ValueError(
                f"{name} draws other pictures, apart by {off} of 255; nothing is timed until they "
                "agree"
            )
        found[name] = {"unet_calls": len(rows), "unet_rows": sum(rows), "largest_difference": off}
    hook.remove()
    return found


def measure(pipe: Any, requests: list[Request], rounds: int) -> dict[str, Any]:
    """The figures of every round: seconds for all requests at once, and quantiles of the seconds
    that requests wait under every load.
    """
    names, count = list(MAKERS), len(requests)
    agreement = check_agreement(pipe, requests)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    waits: dict[str, dict[str, list[list[float]]]] = {
        str(load): {name: [] for name in names} for load in LOADS
    }
    rate = 0.0
    for number in range(rounds):
        order = names[number % len(names) :] + names[: number % len(names)]
        for name in order:
            seconds[name].append(
                max(at for _, at, _ in simulate(MAKERS[name](pipe), requests, [0.0] * count))
            )
        rate = rate or count / seconds[ONE][0]
        for load in LOADS:
            arrivals = poisson(load * rate, count, number)
            for name in order:
                ends = simulate(MAKERS[name](pipe), requests, arrivals)
                waits[str(load)][name].append(
                    np.quantile([at - arrivals[i] for i, at, _ in ends], QUANTILES).tolist()
                )
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "requests": count,
        "batch": BATCH,
        "agreement": agreement,
        "arrivals_per_second": {str(load): load * rate for load in LOADS},
        "seconds": seconds,
        "waits": waits,
    }


def serve_table(results: dict[str, Any]) -> str:
    """One line a way of serving."""
    seconds, count = results["seconds"], results["requests"]
    rows = []
    for name in seconds:
        middle, low, high = ratio(seconds[ONE], seconds[name])
        calls = results["agreement"].get(name, {}).get("unet_calls", "")
        row = [
            name,
            f"{count / median(seconds[name]):.1f}",
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
            str(calls),
        ]
        for waits in results["waits"].values():
            row += [f"{median(column):.2f}" for column in zip(*waits[name], strict=True)]
        rows.append(row)
    head = [
        f"{count} requests, {len(seconds[ONE])} rounds",
        "images per second",
        "over one by one",
        "U-Net calls",
    ]
    for load in results["waits"]:
        head += [f"seconds to wait at load {load}", "95 %"]
    return table(head, rows)


def load_pipeline() -> Any:
    pipe = StableDiffusionPipeline.from_pretrained(
        TEACHER, dtype=torch.float32, use_safetensors=True
    )
    pipe.set_progress_bar_config(disable=True)
    lcm.attach(pipe, ADAPTER)
    return pipe


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results_dir", type=Path, default=RESULTS)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args(argv)
    results = measure(load_pipeline(), make_requests(args.requests), args.rounds)
    write_json(args.results_dir / NAME, results)
    print(serve_table(results))


if __name__ == "__main__":
    main()
