"""What a training step costs beside that of the public scripts, in time and memory:
`results/step.json`.

    OMP_NUM_THREADS=1 python -m benchmarks.step

All read the same images and captions of the tiny world and have the same weights, noise, timesteps
and guidance. This toolkit is measured without further flags, reading pixels like the scripts, with
`--cache_latents`, and with that and `--gradient_checkpointing selective`, which trades time for
memory. First losses and gradients are compared; nothing is timed unless they agree. Then all take
their steps in turn in one process, in changing order, so that whatever else the machine does falls
on all of them; the clock counts this process's own work. This toolkit is there once more: the
second one's distance from 1 is the noise.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
from benchmarks.methods.tables import table
from benchmarks.methods.teacher import write_json
from benchmarks.public_scripts import OneUnet, Settings, TwoUnets, load_pipe
from benchmarks.rounds import measure_seconds, ratio
from examples.shapes.demo import TEACHER
from examples.shapes.render import write_dataset
from lcm.config.run import TrainConfig
from lcm.data.batch import SampleBatch
from lcm.system.memory import LiveMemory, memory_of
from lcm.training.run import Run
from lcm.training.setup import build_run
from lcm.training.state import TrainState

RESULTS = Path(__file__).parent / "results"
NAME = "step.json"
CACHED = "this toolkit, --cache_latents"
SELECTIVE = "this toolkit, --cache_latents --gradient_checkpointing selective"
TOLERANCE = 1e-5
"""Largest relative difference of the losses."""
GRADIENT_TOLERANCE = 1e-3


def make_run(
    folder: Path, teacher: Path, batch_size: int, rank: int, **flags: Any
) -> tuple[Run, TrainState]:
    """A run of this toolkit with the target, pairs and weight of the scripts, on images of the tiny
    world written into `folder`.
    """
    if not (folder / "images").exists():
        write_dataset(folder / "images", batch_size)
    config = TrainConfig.of(
        pretrained_teacher_model=str(teacher),
        train_data_dir=str(folder / "images"),
        output_dir=str(folder / "out"),
        train_batch_size=batch_size,
        lora_rank=rank,
        guidance_scale=5.0,
        **AS_THE_SCRIPTS,
        **flags,
    )
    return build_run(config)


def make_batch(run: Run) -> SampleBatch:
    """The first batch of the run; no sample at the lowest point of the grid, where the scripts mean
    another landing point.
    """
    batch = next(run.inputs.batches(range(1)))
    lowest = 1.0 / int(run.config.method.num_ddim_timesteps or 0)
    return replace(batch, uniform_time=lowest + (1.0 - lowest) * batch.uniform_time)


def make_contenders(
    folder: Path, teacher: Path, batch_size: int, rank: int
) -> dict[str, Contender]:
    """This toolkit and both scripts, with the same adapter, which does something. Data and cache
    are written into `folder`.
    """
    cache = {"cache_latents": True, "latent_cache_dir": str(folder / "cache")}
    ours = {TOOLKIT: {}, CACHED: cache, SELECTIVE: {**cache, "gradient_checkpointing": "selective"}}
    runs = {
        name: make_run(folder, teacher, batch_size, rank, **flags) for name, flags in ours.items()
    }
    first, _ = runs[TOOLKIT]
    batch, method = make_batch(first), first.config.method
    for _, state in runs.values():
        randomise(state.student.parameters)
    adapter = [p.detach().clone() for p in runs[TOOLKIT][1].student.parameters]
    settings = Settings(
        rank=rank,
        w_min=float(method.guidance_scale or 0) - 1.0,
        w_max=float(method.guidance_scale or 0) - 1.0,
        num_ddim_timesteps=int(method.num_ddim_timesteps or 0),
        learning_rate=first.config.optimizer.rate,
    )
    contenders = {
        name: toolkit_contender(run, state, make_batch(run)) for name, (run, state) in runs.items()
    }
    for name, kind in ((TWO, TwoUnets), (ONE, OneUnet)):
        contenders[name] = script_contender(kind(load_pipe(teacher), settings), batch, adapter)
    return contenders


def agreement(contenders: dict[str, Contender]) -> dict[str, dict[str, float]]:
    """Loss and relative differences of loss and gradient to this toolkit's. Raises ValueError when
    they are not the same step.
    """
    mine, gradient = loss_and_gradient(contenders[TOOLKIT])
    found = {}
    for name, contender in contenders.items():
        loss, theirs = loss_and_gradient(contender)
        off = abs(loss / mine - 1.0)
        gradient_off = float((theirs - gradient).norm() / gradient.norm())
        if not (off <= TOLERANCE and gradient_off <= GRADIENT_TOLERANCE):
            raise ValueError(
                f"{name} is not the same step: loss {loss:.8f} against {mine:.8f}, gradients apart "
                f"by {gradient_off:.1e}; nothing is timed until they agree"
            )
        found[name] = {
            "loss": loss,
            "relative_difference": off,
            "relative_gradient_difference": gradient_off,
        }
    return found


def measure_memory(contender: Contender) -> dict[str, int]:
    """Bytes held between steps, and the most that one step has alive on top. A step has been made
    before.
    """
    with LiveMemory() as memory:
        contender.step()
    return {"held": memory_of(contender.held()), "peak_above": memory.peak}


def step_table(results: dict[str, Any]) -> str:
    """One line a contender, beside the two scripts: how many times its own time they take, and its
    share of their memory.
    """
    seconds, memory = results["seconds"], results["memory"]
    rows = []
    for name in [TWO, ONE, *(name for name in seconds if name not in (TWO, ONE))]:
        ratios = [ratio(seconds[script], seconds[name]) for script in (TWO, ONE)]
        row = [name, f"{float(np.median(seconds[name])):.3f}"]
        row += [f"{middle:.2f} ({low:.2f} to {high:.2f})" for middle, low, high in ratios]
        if name in memory:
            whole = {key: found["held"] + found["peak_above"] for key, found in memory.items()}
            above = {key: found["peak_above"] for key, found in memory.items()}
            for sizes in (whole, above):
                row += [f"{sizes[name] / 2**20:.0f}", f"{sizes[name] / sizes[TWO]:.2f}"]
        rows.append(row + [""] * (8 - len(row)))
    head = [
        "step of",
        "seconds",
        "time of two U-Nets over it",
        "of one U-Net",
        "peak MiB",
        "over two U-Nets'",
        "above weights",
        "",
    ]
    return table(head, rows)


def measure(teacher: Path, batch_size: int, rank: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        contenders = make_contenders(Path(folder), teacher, batch_size, rank)
        found = agreement(contenders)
        steps = {name: contender.step for name, contender in contenders.items()}
        seconds = measure_seconds({**steps, AGAIN: steps[TOOLKIT]}, rounds)
        memory = {name: measure_memory(contender) for name, contender in contenders.items()}
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "lora_rank": rank,
        "agreement": found,
        "seconds": seconds,
        "memory": memory,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results_dir", type=Path, default=RESULTS)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args(argv)
    results = measure(TEACHER, args.batch_size, args.rank, args.rounds)
    write_json(args.results_dir / NAME, results)
    print(step_table(results))


if __name__ == "__main__":
    main()
