"""What a run does besides training, measured: saving a checkpoint and the result, drawing a row of
pictures.
"""

from __future__ import annotations

import dataclasses
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lcm.adapter.names import WEIGHTS_NAME
from lcm.outputs.checkpoint import RunState, save_checkpoint
from lcm.system.disk_space import readable
from lcm.system.memory import counting
from lcm.training.run import Run
from lcm.training.state import TrainState

TEACHER_STEPS = 4
"""So many steps of the teacher's are timed; all of them are like each other."""
SAMPLE = 2**28
"""Bytes of a checkpoint that are written to know the rest."""
Log = Callable[..., None]
"""(subject, text, *values): a line of the table in the log."""


@dataclass(frozen=True)
class Besides:
    """What is not training, on the main process: the most memory of it, by what; bytes of a
    checkpoint, of the result, of a row of a grid; seconds of saving, of drawing a row, and of the
    row of the teacher's that is drawn once.
    """

    memory: dict[str, int]
    checkpoint: int = 0
    result: int = 0
    row: int = 0
    saving: float = 0.0
    drawing: float = 0.0
    teacher: float = 0.0


def measure_besides(run: Run, state: TrainState, log: Log) -> Besides:
    """Saves in a temporary folder and draws one row; other processes wait."""
    if not run.machine.is_main:
        return Besides({})
    device, publisher, name = run.machine.device, run.publisher, state.student.result.name
    log("result", "saving the %s as the run will", name)
    with counting(device) as most, tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        publisher.export(Path(folder) / WEIGHTS_NAME, state.step)
        exporting, result = time.perf_counter() - start, size_of(Path(folder))
        memory = {"saving": most()}
    words = "%s of %s, saved, reloaded and compared in %.1f s"
    log("result", words, name, readable(result), exporting)
    nbytes, seconds = measure_saving(state.record(run.facts.record()))
    log("result", "a checkpoint takes %s", readable(nbytes + result))
    found = Besides(memory, nbytes + result, result, saving=exporting + seconds)
    return measure_drawing(run, found, log) if run.config.validation.draws else found


def measure_drawing(run: Run, found: Besides, log: Log) -> Besides:
    """Draws one row twice: its most memory, the seconds of the second, the bytes of its picture;
    and some steps of the teacher's, for the seconds of all of them.
    """
    publisher, validation = run.publisher, run.config.validation
    columns = ", ".join(map(str, validation.validation_num_steps))
    log("drawing", "one prompt in %s steps", columns)
    steps = min(TEACHER_STEPS, validation.validation_teacher_steps)
    with counting(run.machine.device) as most:
        row = publisher.try_drawing()
        if steps:
            publisher.try_teacher(1)
        memory = {**found.memory, "drawing": most()}
    # pictures of a large size are drawn one by one
    times = -(-validation.measured_images // publisher.first_row.num_images)
    drawing = seconds_of(publisher.try_drawing)
    if times > 1:
        drawing += (times - 1) * seconds_of(publisher.try_latents)
    log("drawing", "%.2f s", drawing)
    teacher = 0.0
    if steps:
        part = seconds_of(lambda: publisher.try_teacher(steps))
        teacher = times * part * validation.validation_teacher_steps / steps
        words = "the teacher's pictures of one prompt, drawn once in a run, %.2f s"
        log("drawing", words, teacher)
    picture = io.BytesIO()
    row.save(picture, format="PNG")
    return dataclasses.replace(
        found, memory=memory, row=picture.tell(), drawing=drawing, teacher=teacher
    )


def seconds_of(work: Callable[[], object]) -> float:
    """The seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


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
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
