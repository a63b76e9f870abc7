"""A training step of this toolkit beside that of both public scripts: same pictures, captions,
noise, times, guidance, adapter and frozen weights, in turn in one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.contenders import (
    AGAIN,
    AS_THE_SCRIPTS,
    ONE,
    TOOLKIT,
    TWO,
    Contender,
    loss_and_gradient,
    randomise,
    script_contender,
    toolkit_contender,
)
from benchmarks.gpu.plan import Bench
from benchmarks.gpu.worlds import (
    GUIDANCE_SCALE,
    RANK,
    TINY_RANK,
    batch_of,
    cached,
    flops_per_image,
    make_run,
    make_teacher,
    pixel_batch,
    precision_of,
    twin,
)
from benchmarks.public_scripts import OneUnet, Settings, TwoUnets
from benchmarks.rounds import measure_seconds
from lcm.models.families import Family
from lcm.system.memory import is_out_of_memory, memory_of
from lcm.training.inputs import DTYPES

CACHED = "this toolkit, --cache_latents"
FLOAT = "two U-Nets, student in float32"
"""The script with two U-Nets as it is: it keeps the student's frozen weights in float32."""
LOSS_SCALE = 65536.0
"""What gradients are compared at in float16, as a loss scaler has it at first."""


def autocast_of(bench: Bench, precision: str) -> torch.dtype | None:
    """The precision that the scripts' networks are called in."""
    name = precision_of(bench, precision)
    return None if name == "no" else DTYPES[name]


def script_of(
    kind: type[TwoUnets], bench: Bench, family: Family, precision: str, *, floating: bool = False
) -> TwoUnets:
    """A public script on a teacher; `floating` makes its student's frozen weights float32."""
    w = GUIDANCE_SCALE - 1.0
    settings = Settings(rank=TINY_RANK if bench.tiny else RANK, w_min=w, w_max=w)
    script = kind(family.pipe, settings, autocast_of(bench, precision))
    if floating:
        script.unet.float()
    return script


def make_contenders(
    bench: Bench, model: str, batch: int, precision: str
) -> dict[str, Callable[[], Contender]]:
    """What makes every contender, by name, this toolkit first."""
    family = make_teacher(bench, model, precision)
    teachers = {name: twin(family) for name in (TOOLKIT, ONE, TWO, FLOAT)}
    pixels = pixel_batch(bench, model, batch)
    run, state = make_run(bench, teachers[TOOLKIT], batch, precision, **AS_THE_SCRIPTS)
    randomise(state.student.parameters)
    adapter = [parameter.detach().clone() for parameter in state.student.parameters]
    moments = cached(teachers[TOOLKIT], pixels)

    def script(name: str, kind: type[TwoUnets]) -> Callable[[], Contender]:
        def make() -> Contender:
            made = script_of(kind, bench, teachers[name], precision, floating=name == FLOAT)
            return script_contender(made, pixels, adapter)

        return make

    return {
        TOOLKIT: lambda: toolkit_contender(run, state, pixels),
        CACHED: lambda: toolkit_contender(run, state, moments, holds_encoders=False),
        TWO: script(TWO, TwoUnets),
        ONE: script(ONE, OneUnet),
        FLOAT: script(FLOAT, TwoUnets),
    }


def begin(
    bench: Bench, makers: dict[str, Callable[[], Contender]], scale: float
) -> tuple[dict[str, Contender], dict[str, dict[str, Any]], dict[str, str]]:
    """The contenders that have made an update, what their losses and gradients were before that,
    and what became of the others.
    """
    facts: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    mine, gradient = math.nan, None
    # all of them first: one that fits beside the weights of some may not beside those of all
    contenders = {name: make() for name, make in makers.items()}
    for name in makers:
        contender = contenders.pop(name)
        try:
            loss, theirs = loss_and_gradient(contender, scale)
            contender.step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failed[name] = "out of memory"
        if name in failed:  # and the error is gone, with what it held
            del contender
            bench.device.clear()
            continue
        if gradient is None:
            mine, gradient = loss, theirs
        facts[name] = {
            "loss": loss,
            "loss_apart": abs(loss / mine - 1.0),
            "gradient_cosine": float(F.cosine_similarity(theirs, gradient, dim=0)),
        }
        contenders[name] = contender
    return contenders, facts, failed


def measure(bench: Bench, model: str, batch: int, precision: str) -> dict[str, Any]:
    """Loss, gradient, seconds and memory of every contender; one that does not fit into memory is
    named, and the others go on.

    How far loss and gradient are from this toolkit's is told, not judged: half precision and
    another order of sums move them.
    """
    batch = batch_of(bench, batch)
    makers = make_contenders(bench, model, batch, precision)
    scale = LOSS_SCALE if precision_of(bench, precision) == "fp16" else 1.0
    contenders, facts, failed = begin(bench, makers, scale)
    steps = {name: contender.step for name, contender in contenders.items()}
    if TOOLKIT in steps:
        steps[AGAIN] = steps[TOOLKIT]
    seconds = measure_seconds(steps, bench.rounds, bench.device.seconds, within=bench.within)
    # at last, since a loss scaler may skip the first updates, and with them the optimizer's state
    for name, contender in contenders.items():
        memory = bench.device.memory(contender.step)
        facts[name]["memory"] = {"held": memory_of(contender.held()), **memory}
    return {
        "model": model,
        "batch": batch,
        "precision": precision_of(bench, precision),
        "flops_per_image": flops_per_image(model, bench.tiny),
        "contenders": facts,
        "failed": failed,
        "seconds": seconds,
        "state": bench.device.state(),
    }
