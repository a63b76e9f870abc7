"""--dry_run: a run tried out before it is made, and what follows for its time, its memory and its
disk.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import Tensor

from lcm.adapter.files import WEIGHTS_NAME
from lcm.dry_run.memory_fit import TIGHT, Memory, advice
from lcm.dry_run.preparation import Preparation, gain_of_cache, preparations
from lcm.dry_run.step_memory import attempt, measure_steps
from lcm.outputs.checkpoint import RunState, save_checkpoint
from lcm.system.disk_space import free_bytes, nearest_existing, readable, shortages
from lcm.system.memory import counting, peak_memory, total_memory
from lcm.training.loop import Trainer
from lcm.training.plan import Plan, duration, output_need, plan_of, summarize

logger = logging.getLogger(__name__)

TIMED = 5
"""Updates that are timed, after one to warm up."""
SAMPLE = 2**28
"""Bytes of a checkpoint that are written to know the rest."""
WORTH_A_CACHE = 0.05
"""Share of encoding in an update from which on a cache is spoken of."""


def tell(subject: str, text: str, *values: object) -> None:
    """A line of the table in the log."""
    logger.info(f"  %-8s  {text}", subject, *values)


class DoesNotFit(ValueError):  # noqa: N818 - it reads as what it says
    """The run that was asked for needs more memory or disk than there is."""


def rehearse(trainer: Trainer) -> None:
    """Some updates, an adapter saved and reloaded in a temporary folder, a row of pictures; logs
    what the run will take. Nothing is kept.

    Raises DoesNotFit, on all processes, with what to do.
    """
    config = trainer.config
    records, samples = len(trainer.data.records), trainer.samples_per_step
    logger.info("%s", summarize(config, trainer.family, trainer.student, records, samples))
    memory = measure_steps(trainer)
    if memory is None or config.train_batch_size not in memory.steps:
        if memory is not None:
            tell_memory(trainer, memory)
        raise DoesNotFit(no_room(trainer, memory))
    seconds = measure_seconds(trainer)
    besides = attempt(trainer, lambda: measure_besides(trainer))
    if besides is None:
        raise DoesNotFit(
            f"this run does NOT fit: memory runs out as it saves or draws; {advice(config, None)}"
        )
    memory = dataclasses.replace(memory, besides=besides[0].memory)
    peak = tell_memory(trainer, memory)
    problems = gather_object([tell_what_follows(trainer, seconds, besides[0])])[0]
    if peak > memory.total:
        raise DoesNotFit(no_room(trainer, memory))
    if problems:
        raise DoesNotFit(f"this run does NOT fit: {'; '.join(problems)}")
    if peak > TIGHT * memory.total:
        logger.warning(
            "memory is tight, %s of %s: %s",
            readable(peak),
            readable(memory.total),
            advice(config, memory),
        )
    logger.info(
        "this run fits: it takes %.0f %% of the memory, and the disk has room",
        100 * peak / memory.total,
    )


def no_room(trainer: Trainer, memory: Memory | None) -> str:
    """The last line, where memory is too small."""
    config, device = trainer.config, trainer.accelerator.device
    total = readable(total_memory(device) if memory is None else memory.total)
    if memory is None:
        return (
            f"this run does NOT fit: not even one sample does into {total}; {advice(config, None)}"
        )
    size = config.train_batch_size
    what = f"a batch of {size} needs about {readable(memory.peak(size))}, there are {total}"
    return f"this run does NOT fit: {what}; {advice(config, memory)}"


def tell_memory(trainer: Trainer, memory: Memory) -> int:
    """Logs it; the peak of the run."""
    size = trainer.config.train_batch_size
    held = ", ".join(f"{name} {readable(nbytes)}" for name, nbytes in memory.held.items() if nbytes)
    besides = "".join(f", {name} {readable(nbytes)}" for name, nbytes in memory.besides.items())
    tell("memory", "%s held (%s)", readable(memory.between), held)
    tell(
        "memory",
        "on top of it an update of %d samples %s%s",
        size,
        readable(memory.above(size)),
        besides,
    )
    peak, most = memory.peak(size), memory.largest()
    counted = (
        ""
        if trainer.accelerator.device.type == "cuda"
        else f"; tensors were counted: with all libraries {peak_memory()}"
    )
    tell(
        "memory",
        "peak %s of %s; up to --train_batch_size %d fits%s",
        readable(peak),
        readable(memory.total),
        most,
        counted,
    )
    return peak


# --- time -----------------------------------------------------------------------------------------


def measure_seconds(trainer: Trainer) -> float:
    """Of one update, the median over some; of the slowest process."""
    first, seconds = trainer.step, []
    batches = trainer.batches(range(first, first + 1 + TIMED))
    for number in range(1 + TIMED):
        trainer.step = first  # what follows the progress of the run is not to run beyond its end
        start = time.perf_counter()
        loss, grad_norm = trainer.train_step(batches)
        if loss.is_cuda:
            torch.cuda.synchronize(loss.device)
        seconds.append(time.perf_counter() - start)
        if number == 0:
            tell("one step", "loss %.4f, gradient norm %.4f", loss.item(), float(grad_norm))
    trainer.step = first
    return max(gather_object([statistics.median(seconds[1:])]))


@dataclass(frozen=True)
class Besides:
    """What is not training, of the main process: the most memory of it; bytes and seconds of a
    checkpoint, of what is given away, of a row of a grid.
    """

    memory: dict[str, int]
    checkpoint: int = 0
    given_away: int = 0
    row: int = 0
    saving: float = 0.0
    drawing: float = 0.0


def measure_besides(trainer: Trainer) -> Besides:
    """Saves in a temporary folder and draws one row; other processes wait."""
    if not trainer.accelerator.is_main_process:
        return Besides({})
    device = trainer.accelerator.device
    with counting(device) as most, tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        trainer.publisher.export(Path(folder) / WEIGHTS_NAME, trainer.step)
        exporting, given_away = time.perf_counter() - start, size_of(Path(folder))
        memory = {"saving": most()}
    what = "U-Net" if trainer.config.full_finetune else "adapter"
    tell("result", "%s of %s, saved, reloaded and compared", what, readable(given_away))
    with counting(device) as most:
        row = trainer.publisher.try_drawing()
        memory["drawing"] = most()
    start = time.perf_counter()
    trainer.publisher.try_drawing()
    drawing = time.perf_counter() - start
    tell(
        "drawing",
        "one prompt in %s steps, %.2f s",
        ", ".join(map(str, trainer.config.validation_num_steps)),
        drawing,
    )
    picture = io.BytesIO()
    row.save(picture, format="PNG")
    state, seconds = measure_saving(trainer.state())
    return Besides(
        memory, state + given_away, given_away, picture.tell(), exporting + seconds, drawing
    )


def measure_saving(state: RunState) -> tuple[int, float]:
    """Bytes and seconds of a checkpoint without its adapter; of a large one only some tensors are
    written.
    """
    sample: dict[str, Tensor] = {}
    for name, tensor in state.tensors.items():
        if not sample or sum(t.nbytes for t in sample.values()) + tensor.nbytes <= SAMPLE:
            sample[name] = tensor
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        written = size_of(save_checkpoint(Path(folder), 0, RunState(sample, state.facts)))
        seconds = time.perf_counter() - start
    nbytes = sum(tensor.nbytes for tensor in sample.values())
    headers = (written - nbytes) * len(state.tensors) // len(sample)
    return state.nbytes + headers, seconds * state.nbytes / nbytes


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- what follows ---------------------------------------------------------------------------------


def tell_what_follows(trainer: Trainer, update: float, besides: Besides) -> list[str]:
    """Logs time and disk on the main process; what does not fit on the disk, with what to do."""
    if not trainer.accelerator.is_main_process:
        return []
    plan = plan_of(trainer.config, trainer.step)
    with ExitStack() as stack:
        for family in trainer.families:
            stack.enter_context(family.at_hand(trainer.accelerator.device))
        before = preparations(trainer)
    for made in before:
        tell(
            "before",
            "%s: %d of %d still to be made, %s",
            made.what,
            made.missing,
            made.wanted,
            readable(made.need.nbytes),
        )
    if trainer.config.streaming:
        tell(
            "before",
            "the stream is read and encoded; how much there is shows when it comes, and is not "
            "counted here",
        )
    tell_time(trainer, plan, update, besides, before)
    output = output_need(
        trainer.config,
        plan,
        besides.checkpoint,
        besides.given_away,
        len(trainer.publisher.prompts) * besides.row,
    )
    needs = [output, *(made.need for made in before if made.missing)]
    tell("disk", "a checkpoint takes %s", readable(besides.checkpoint))
    for need in needs:
        free = free_bytes(nearest_existing(need.folder))
        tell(
            "disk",
            "%s for %s in %s, where %s are free",
            readable(need.nbytes),
            need.what,
            need.folder,
            readable(free),
        )
    return shortages(needs)


def tell_time(
    trainer: Trainer, plan: Plan, update: float, besides: Besides, before: list[Preparation]
) -> None:
    """Of one update and of all that is to come."""
    config, processes, rows = trainer.config, trainer.process[1], len(trainer.publisher.prompts)
    together = -(
        -rows // processes
    )  # rows of a grid that a process draws one after the other; the last grid is drawn by one
    parts = {made.what: made.seconds for made in before if made.missing}
    parts[f"{plan.updates} updates"] = plan.updates * update
    parts[f"{plan.grids} grids"] = besides.drawing * ((plan.grids - 1) * together + rows)
    parts[f"{plan.checkpoints} checkpoints and the result"] = besides.saving * (
        plan.checkpoints + 1
    )
    said = ", ".join(f"{what} {duration(seconds)}" for what, seconds in parts.items())
    tell(
        "time",
        "%.3f s an update (median of %d after one to warm up), %.0f an hour",
        update,
        TIMED,
        3600 / update,
    )
    tell("time", "%s to the end of the run: %s", duration(sum(parts.values())), said)
    if config.cache_latents:
        return
    gain, samples = (
        gain_of_cache(trainer),
        config.train_batch_size * config.gradient_accumulation_steps,
    )
    share = gain.live * samples / update
    if share > WORTH_A_CACHE:
        tell(
            "time",
            "%s",
            gain.advice(share, plan.updates * samples, len(trainer.data.records) // processes),
        )
