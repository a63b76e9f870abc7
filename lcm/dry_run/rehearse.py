"""--dry_run: a run tried out before it is made, and what follows for its time, its memory and its
disk.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack

import torch
from accelerate.utils import gather_object

from lcm.dry_run.memory_fit import TIGHT, Memory, advice
from lcm.dry_run.preparation import Preparation, gain_of_cache, preparations
from lcm.dry_run.saving import Besides, measure_besides
from lcm.dry_run.step_memory import attempt, measure_steps
from lcm.outputs.folder import MEASURED_NAME, TEACHER_NAME
from lcm.system.device import counts_peaks, synchronize
from lcm.system.disk_space import free_bytes, nearest_existing, readable, shortages
from lcm.system.memory import peak_of_process, total_memory
from lcm.system.transfers import fetched
from lcm.training.plan import Plan, duration, output_need, plan_of, summarize
from lcm.training.run import Run
from lcm.training.state import TrainState
from lcm.training.step import train_step

logger = logging.getLogger(__name__)

TIMED = 5
"""Updates that are timed, after one to warm up; fewer where the run has no more."""
ENOUGH_SECONDS = 60.0
"""After so long, what was timed by then must do."""
SMALL_RATE = 1e-5
"""The learning rate of a dry run at most: an adapter that does something can be saved, reloaded
and compared, and one for which the rate of the run is too large does not run away.
"""
WORTH_A_CACHE = 0.05
"""Share of encoding in an update from which on a cache is spoken of."""


def log(subject: str, text: str, *values: object) -> None:
    """A line of the table in the log."""
    logger.info(f"  %-8s  {text}", subject, *values)


class DoesNotFit(ValueError):  # noqa: N818 - it reads as what it says
    """The run that was asked for needs more memory or disk than there is."""


def rehearse(run: Run, state: TrainState) -> None:
    """Some updates, an adapter saved and reloaded in a temporary folder, a row of pictures; logs
    what the run will take, each part as it begins and as soon as it is known. Nothing is kept.

    Raises DoesNotFit, on all processes, with what to do.
    """
    logger.info("%s", summarize(run, state))
    size = run.config.loop.train_batch_size
    log("memory", "measuring steps of up to %d samples, which move no weight", size)
    memory = measure_steps(run, state)
    if memory is not None:
        log_memory(run, memory)
    if memory is None or memory.wanted not in memory.steps:
        raise DoesNotFit(no_room(run, memory))
    seconds = measure_seconds(run, state)
    besides = attempt(run, state, lambda: measure_besides(run, state, log))
    if besides is None:
        raise DoesNotFit(
            "this run does NOT fit: memory runs out as it saves or draws; "
            f"{advice(run.config, None)}"
        )
    memory = dataclasses.replace(memory, besides=besides[0].memory)
    log_peak(run, memory)
    problems = gather_object([log_what_follows(run, state, seconds, besides[0])])[0]
    if memory.peak() > memory.total:
        raise DoesNotFit(no_room(run, memory))
    if problems:
        raise DoesNotFit(f"this run does NOT fit: {'; '.join(problems)}")
    log_verdict(run, memory)


def log_verdict(run: Run, memory: Memory) -> None:
    """The last lines of a run that fits."""
    peak, total = memory.peak(), memory.total
    if peak > TIGHT * total:
        knobs = advice(run.config, memory)
        logger.warning("memory is tight, %s of %s: %s", readable(peak), readable(total), knobs)
    logger.info(
        "this run fits: it takes %.0f %% of the memory, and the disk has room",
        100 * peak / total,
    )


def no_room(run: Run, memory: Memory | None) -> str:
    """The last line, where memory is too small."""
    if memory is None:
        total = readable(total_memory(run.machine.device))
        return (
            f"this run does NOT fit: not even one sample does into {total}; "
            f"{advice(run.config, None)}"
        )
    needed, total = readable(memory.peak()), readable(memory.total)
    what = f"a batch of {memory.wanted} needs about {needed}, there are {total}"
    return f"this run does NOT fit: {what}; {advice(run.config, memory)}"


def log_memory(run: Run, memory: Memory) -> None:
    """Logs what is held, and the peak of an update on top of it."""
    held = ", ".join(f"{name} {readable(nbytes)}" for name, nbytes in memory.held.items() if nbytes)
    log("memory", "%s held (%s)", readable(memory.between), held)
    log(
        "memory",
        "on top of it an update of %d samples %s; peak of updates %s of %s",
        memory.wanted,
        readable(memory.above(memory.wanted)),
        readable(memory.peak()),
        readable(memory.total),
    )


def log_peak(run: Run, memory: Memory) -> None:
    """Logs the peak of all that a run does."""
    besides = ", ".join(f"{name} {readable(nbytes)}" for name, nbytes in memory.besides.items())
    log("memory", "on top of what is held %s", besides)
    counted = ""
    if not counts_peaks(run.machine.device):
        used = f"{peak_of_process() / 2**30:.2f} GiB of this process"
        counted = f"; tensors were counted: with all libraries {used}"
    log(
        "memory",
        "peak %s of %s; up to --train_batch_size %d fits%s",
        readable(memory.peak()),
        readable(memory.total),
        memory.largest(),
        counted,
    )


# --- time -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one update, the median over so many `timed` ones, after one to warm up where the
    run has more than one.
    """

    update: float = 0.0
    timed: int = 0

    def __str__(self) -> str:
        if self.timed > 1:
            return f"median of {self.timed} after one to warm up"
        return "measured once"


def measure_seconds(run: Run, state: TrainState) -> Timing:
    """Times the next updates of the run, no more than it has; where terms are still to begin, also
    with these. Returns the mean of all that are to come.
    """
    number = min(1 + TIMED, run.facts.num_updates - state.step)
    if number == 0:
        return Timing()
    log("time", "timing up to %d of the %d updates", number, run.facts.num_updates)
    timing = time_updates(run, state, number)
    log("time", "%.3f s an update (%s), %.0f an hour", timing.update, timing, 3600 / timing.update)
    last, waiting = run.facts.num_updates, run.objective.waiting(state.step / run.facts.num_updates)
    if not waiting:
        return timing
    begin = math.ceil(last * min(term.start for term in waiting))
    later, names = time_updates(at_dearest(run), state, number), [term.name for term in waiting]
    log("time", "%.3f s with %s, from update %d on", later.update, ", ".join(names), begin + 1)
    share = (last - begin) / (last - state.step)
    return Timing((1 - share) * timing.update + share * later.update, timing.timed)


def time_updates(run: Run, state: TrainState, number: int) -> Timing:
    """Times so many updates at a small learning rate; of the slowest process."""
    rate = min(SMALL_RATE, run.config.optimizer.rate)
    with state.learning_at(rate):
        seconds = list(times_of_updates(run, state, number))
    timed = seconds[1:] or seconds
    return Timing(max(gather_object([statistics.median(timed)])), len(timed))


def at_dearest(run: Run) -> Run:
    """The same run, whose terms all count from its beginning."""
    return dataclasses.replace(run, objective=dataclasses.replace(run.objective, all_terms=True))


def times_of_updates(run: Run, state: TrainState, number: int) -> Iterator[float]:
    """The seconds of up to so many updates."""
    trying = state.unscheduled()
    batches = run.inputs.batches(range(state.step, state.step + number))
    begin = time.perf_counter()
    for i in range(number):
        start = time.perf_counter()
        output = train_step(run, trying, batches)
        synchronize(output.loss.device)
        yield time.perf_counter() - start
        if i == 0 and not run.objective.all_terms:
            loss, grad_norm = fetched(torch.stack([output.loss.mean(), output.grad_norm])).tolist()
            log("one step", "loss %.4f, gradient norm %.4f", loss, grad_norm)
        # all processes go on together
        if i > 0 and max(gather_object([time.perf_counter() - begin])) > ENOUGH_SECONDS:
            return


# --- what follows ---------------------------------------------------------------------------------


def log_what_follows(run: Run, state: TrainState, timing: Timing, besides: Besides) -> list[str]:
    """Logs time and disk on the main process; what does not fit on the disk, with what to do."""
    if not run.machine.is_main:
        return []
    plan = plan_of(run, state.step)
    with ExitStack() as stack:
        for family in run.families:
            stack.enter_context(family.at_hand(run.machine.device))
        before = preparations(run)
    for made in before:
        missing = f"{made.missing} of {made.wanted} still to be made"
        log("before", "%s: %s, %s", made.what, missing, readable(made.need.nbytes))
    if run.config.data.streaming:
        log(
            "before",
            "the stream is read and encoded; how much there is shows when it comes, and is not "
            "counted here",
        )
    log_time(run, plan, timing.update, besides, before)
    grid = len(run.facts.prompts) * besides.row
    output = output_need(run, plan, besides.checkpoint, besides.result, grid)
    needs = [output, *(made.need for made in before if made.missing)]
    for need in needs:
        free = free_bytes(nearest_existing(need.folder))
        log(
            "disk",
            "%s for %s in %s, where %s are free",
            readable(need.nbytes),
            need.what,
            need.folder,
            readable(free),
        )
    return shortages(needs)


def log_time(
    run: Run, plan: Plan, update: float, besides: Besides, before: list[Preparation]
) -> None:
    """Logs the time of all that is to come."""
    processes, rows = run.machine.process[1], len(run.facts.prompts)
    # rows of a grid that a process draws one after the other; the last grid is drawn by one
    together = -(-rows // processes)
    parts = {made.what: made.seconds for made in before if made.missing}
    parts[f"{plan.updates} updates"] = plan.updates * update
    if plan.grids:
        parts[f"{plan.grids} grids"] = besides.drawing * ((plan.grids - 1) * together + rows)
    captions = len(run.facts.captions)
    shared = -(-captions // processes)
    if plan.evaluations:
        drawn = (plan.evaluations - 1) * shared + captions
        parts[f"{plan.evaluations} evaluations"] = besides.drawing * drawn
    names = {TEACHER_NAME: together, MEASURED_NAME: shared}
    lacking = sum(n for name, n in names.items() if not (run.publisher.folder / name).exists())
    if plan.grids and besides.teacher and lacking:
        parts["the teacher's pictures"] = besides.teacher * lacking
    # the result is what the last checkpoint holds, which was proven with it
    saved = max(1, plan.checkpoints)
    parts[f"{plan.checkpoints} checkpoints and the result"] = besides.saving * saved
    words = ", ".join(f"{what} {duration(seconds)}" for what, seconds in parts.items())
    log("time", "%s to the end of the run: %s", duration(sum(parts.values())), words)
    if plan.updates and not run.config.cache.cache_latents:
        log_cache(run, plan, update)


def log_cache(run: Run, plan: Plan, update: float) -> None:
    """Logs what --cache_latents would bring, where encoding is worth mentioning."""
    gain, processes = gain_of_cache(run), run.machine.process[1]
    samples = run.config.loop.train_batch_size * run.accumulation
    share = gain.live * samples / update
    if share > WORTH_A_CACHE:
        records = len(run.loaded.records) // processes
        log("time", "%s", gain.advice(share, plan.updates * samples, records))
