"""Four steps with an attached adapter, by the stock pipeline: a call in all, and without the VAE's
decoding; with compiled blocks and without.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import lcm
from benchmarks.contenders import randomise
from benchmarks.gpu.plan import Bench
from benchmarks.gpu.regional import Regional, forget, graphs_compiled
from benchmarks.gpu.worlds import (
    batch_of,
    family_of,
    make_pipe,
    make_run,
    twin,
)
from benchmarks.rounds import measure_seconds
from examples.shapes.render import CAPTIONS
from lcm.adapter.export import export_lora
from lcm.training.inputs import DTYPES
from lcm.training.setup import build_recipe

NUM_STEPS = 4
PICTURES, LATENTS = "pictures", "latents alone"
COMPILED = ", compiled"


def pipe_with_adapter(bench: Bench, model: str, precision: str) -> Any:
    """A pipeline with random weights and an adapter that was exported by this toolkit and attached
    by it.
    """
    family = family_of(make_pipe(bench, model, DTYPES[precision]))
    donor = twin(family)
    run, state = make_run(bench, donor, 1, precision)
    randomise(state.student.parameters)
    recipe = build_recipe(run.config, donor, run.facts.resolution, None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pytorch_lora_weights.safetensors"
        export_lora(state.student.unet, path, recipe)
        del run, state, donor
        lcm.attach(family.pipe, path)
    bench.device.clear()
    return family.pipe


def caller(bench: Bench, pipe: Any, batch: int, output_type: str) -> Callable[[], Any]:
    """A call of the pipeline for so many captions, from the same noise every time."""
    prompts = [CAPTIONS[i % len(CAPTIONS)] for i in range(batch)]

    def call() -> Any:
        generator = torch.Generator(bench.device.torch).manual_seed(0)
        return pipe(
            prompts,
            num_inference_steps=NUM_STEPS,
            guidance_scale=1.0,
            generator=generator,
            output_type=output_type,
        ).images

    return call


def measure(bench: Bench, model: str, batch: int, precision: str, compiled: bool) -> dict[str, Any]:
    """Seconds and memory of a call, in turn in one process; with `compiled` both ways, and how long
    the first compiled call took.
    """
    batch = batch_of(bench, batch)
    pipe = pipe_with_adapter(bench, model, precision)
    calls = {
        PICTURES: caller(bench, pipe, batch, "pil"),
        LATENTS: caller(bench, pipe, batch, "latent"),
    }
    plain = calls[LATENTS]()
    facts: dict[str, Any] = {
        "model": model,
        "batch": batch,
        "precision": precision,
        "num_inference_steps": NUM_STEPS,
        "finite": bool(plain.isfinite().all()),
    }
    switch: Callable[[str], None] | None = None
    if compiled:
        forget()
        regional = Regional(bench, pipe.unet)
        calls |= {name + COMPILED: call for name, call in calls.items()}
        regional.switch(True)
        facts["first_call_seconds"] = bench.device.seconds(calls[LATENTS])
        facts["graphs"] = graphs_compiled()
        off = (calls[LATENTS]().float() - plain.float()).norm() / plain.float().norm()
        facts["relative_difference"] = float(off)

        def switch(name: str) -> None:
            regional.switch(name.endswith(COMPILED))

        switch(PICTURES)
    seconds = measure_seconds(
        calls, bench.rounds, bench.device.seconds, within=bench.within, before=switch
    )
    if switch is not None:
        switch(PICTURES)
    memory = {name: bench.device.memory(calls[name]) for name in (PICTURES, LATENTS)}
    return {**facts, "memory": memory, "seconds": seconds, "state": bench.device.state()}
