"""What a run does besides training, measured: saving a checkpoint and the result, drawing a row of
pictures.
"""

from __future__ import annotations

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

SAMPLE = 2**28
"""Bytes of a checkpoint that are written to know the rest."""
Log = Callable[..., None]
"""(subject, text, *values): a line of the table in the log."""


@dataclass(frozen=True)
class Besides:
    """What is not training, on the main process: the most memory of it, by what; bytes of a
    checkpoint, of the result, of a row of a grid; seconds of saving and of drawing a row.
    """

    memory: dict[str, int]
    checkpoint: int = 0
    result: int = 0
    row: int = 0
    saving: float = 0.0
    drawing: float = 0.0


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
    drawing, row = 0.0, 0
    if run.config.validation.draws:
        memory["drawing"], drawing, row = measure_drawing(run, log)
    return Besides(memory, nbytes + result, result, row, exporting + seconds, drawing)


def measure_drawing(run: Run, log: Log) -> tuple[int, float, int]:
    """Draws one row twice: the most memory of it, the seconds of the second, the bytes of its
    picture.
    """
    columns = ", ".join(map(str, run.config.validation.validation_num_steps))
    log("drawing", "one prompt in %s steps", columns)
    with counting(run.machine.device) as most:
        row = run.publisher.try_drawing()
        memory = most()
    start = time.perf_counter()
    run.publisher.try_drawing()
    drawing = time.perf_counter() - start
    log("drawing", "%.2f s", drawing)
    picture = io.BytesIO()
    row.save(picture, format="PNG")
    return memory, drawing, picture.tell()


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
