"""The way there and back of a step as one CUDA graph: what the launching of kernels costs where the
batch is small.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.contenders import randomise
from benchmarks.gpu.plan import Bench
from benchmarks.gpu.worlds import (
    batch_of,
    cached,
    make_run,
    make_teacher,
    pixel_batch,
    precision_of,
)
from benchmarks.rounds import measure_seconds
from lcm.training.encode import encode

PLAIN, GRAPH = "as it is", "one CUDA graph"


def measure(bench: Bench, model: str, batch: int, precision: str) -> dict[str, Any]:
    """Seconds of loss and gradient from given latents and embeddings, launched kernel by kernel
    and replayed; loss and length of the gradient of both.
    """
    batch = batch_of(bench, batch)
    family = make_teacher(bench, model, precision)
    run, state = make_run(bench, family, batch, precision)
    parameters = state.student.parameters
    randomise(parameters)
    latents = encode(family, cached(family, pixel_batch(bench, model, batch)), bench.device.torch)
    family.park([family.pipe.vae, *family.text_encoders()])
    shown: dict[str, torch.Tensor] = {}

    def reset() -> None:
        for parameter in parameters:
            parameter.grad = None

    def there_and_back() -> None:
        loss = run.objective(state.student.nets, latents).loss.mean()
        loss.backward()
        shown["loss"] = loss.detach()

    def plainly() -> None:
        reset()
        there_and_back()

    def seen() -> dict[str, float]:
        gradients = [p.grad for p in parameters if p.grad is not None]
        return {
            "loss": float(shown["loss"]),
            "gradient_norm": float(torch.stack([g.norm() for g in gradients]).norm()),
            "gradients": len(gradients),
        }

    # the graph first: gradients that the default stream has computed would tie it to that stream
    replay = bench.device.capture(there_and_back, reset)
    static = dict(shown)
    replay()
    captured = {p: p.grad for p in parameters}
    shown.update(static)
    found = {GRAPH: seen()}
    plainly()
    found[PLAIN] = seen()
    for parameter, gradient in captured.items():
        parameter.grad = gradient
    seconds = measure_seconds(
        {PLAIN: plainly, GRAPH: replay}, bench.rounds, bench.device.seconds, within=bench.within
    )
    facts = {"model": model, "batch": batch, "precision": precision_of(bench, precision)}
    return {**facts, "results": found, "seconds": seconds, "state": bench.device.state()}
