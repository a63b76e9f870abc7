"""This toolkit's step with and without gradient checkpointing, and with compiled blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.contenders import Contender, randomise, toolkit_contender
from benchmarks.gpu.plan import Bench
from benchmarks.gpu.regional import Regional, forget, graphs_compiled
from benchmarks.gpu.worlds import (
    batch_of,
    cached,
    flops_per_image,
    make_run,
    make_teacher,
    pixel_batch,
    precision_of,
)
from benchmarks.rounds import measure_seconds
from lcm.models.gradient_checkpointing import checkpoint_activations
from lcm.system.memory import is_out_of_memory, memory_of

MODES = ("full", "selective", "no")
"""The values of --gradient_checkpointing; what takes the least memory comes first."""
AGAIN = "no, again"
PLAIN, COMPILED = "as it is", "compiled"


def make_step(
    bench: Bench, model: str, batch: int, precision: str
) -> tuple[Contender, Any, dict[str, Any]]:
    """This toolkit's step with --cache_latents, its U-Net, and what it is a step of."""
    family = make_teacher(bench, model, precision)
    run, state = make_run(bench, family, batch, precision)
    randomise(state.student.parameters)
    moments = cached(family, pixel_batch(bench, model, batch))
    family.park([family.pipe.vae, *family.text_encoders()])  # as --cache_latents does
    facts = {
        "model": model,
        "batch": batch,
        "precision": precision_of(bench, precision),
        "flops_per_image": flops_per_image(model, bench.tiny),
    }
    contender = toolkit_contender(run, state, moments, holds_encoders=False)
    return contender, state.student.unet, facts


def set_mode(unet: Any, mode: str) -> None:
    """The U-Net recomputes as this value of --gradient_checkpointing says from now on."""
    unet.disable_gradient_checkpointing()
    checkpoint_activations(unet, mode)


def fits(bench: Bench, step: Callable[[], object]) -> bool:
    """Makes a step; whether there was memory for it."""
    try:
        step()
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    bench.device.clear()  # only now the error is gone, with what it held
    return False


def measure_checkpointing(bench: Bench, model: str, batch: int, precision: str) -> dict[str, Any]:
    """Seconds and memory of every value of --gradient_checkpointing, in turn in one process."""
    contender, unet, facts = make_step(bench, model, batch_of(bench, batch), precision)
    failed: dict[str, str] = {}
    for mode in MODES:
        set_mode(unet, mode)
        try:
            if not fits(bench, contender.step):
                failed[mode] = "out of memory"
        except AttributeError as error:  # selective needs what older versions of torch lack
            failed[mode] = str(error)
    names = [mode for mode in MODES if mode not in failed]
    seconds = measure_seconds(
        dict.fromkeys([*names, AGAIN] if "no" in names else names, contender.step),
        bench.rounds,
        bench.device.seconds,
        within=bench.within,
        before=lambda name: set_mode(unet, "no" if name == AGAIN else name),
    )
    memory = {}
    for mode in names:
        set_mode(unet, mode)
        memory[mode] = bench.device.memory(contender.step)
    held = memory_of(contender.held())
    more = {"held": held, "memory": memory, "failed": failed, "seconds": seconds}
    return {**facts, **more, "state": bench.device.state()}


def measure_compile(
    bench: Bench, model: str, batch: int, precision: str, checkpointing: str
) -> dict[str, Any]:
    """Seconds and memory as it is and with compiled blocks, in turn in one process; and how long
    the first compiled step took, which is mostly the compiler.
    """
    contender, unet, facts = make_step(bench, model, batch_of(bench, batch), precision)
    set_mode(unet, checkpointing)
    contender.step()
    forget()
    regional = Regional(bench, unet)
    regional.switch(True)
    first = bench.device.seconds(contender.step)
    loss = float(contender.loss().detach())
    graphs = graphs_compiled()
    regional.switch(False)
    plain = float(contender.loss().detach())
    seconds = measure_seconds(
        dict.fromkeys([PLAIN, COMPILED], contender.step),
        bench.rounds,
        bench.device.seconds,
        within=bench.within,
        before=lambda name: regional.switch(name == COMPILED),
    )
    memory = {}
    for name in (PLAIN, COMPILED):
        regional.switch(name == COMPILED)
        memory[name] = bench.device.memory(contender.step)
    more = {
        "checkpointing": checkpointing,
        "first_step_seconds": first,
        "graphs": graphs,
        "graphs_at_last": graphs_compiled(),
        "loss": {PLAIN: plain, COMPILED: loss},
        "held": memory_of(contender.held()),
        "memory": memory,
        "seconds": seconds,
    }
    return {**facts, **more, "state": bench.device.state()}
