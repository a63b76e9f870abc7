"""What a step with terms and a second network takes beside one of `lcm`, measured on the tiny
world: `results/term_steps.json`.

    OMP_NUM_THREADS=1 python -m benchmarks.term_steps

The steps that `term_counts` counts at true size: the same pictures and prompts, cached, 24 a step,
rank 32, guidance 5, so late in the run that every term has begun. All take their steps in turn in
one process, in changing order, so that whatever else the machine does falls on all of them; the
clock counts this process's own work. `lcm` is there twice: the second one's distance from 1 is the
noise.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.contenders import randomise, toolkit_contender
from benchmarks.methods.tables import table
from benchmarks.methods.teacher import write_json
from benchmarks.rounds import measure_seconds, ratio
from benchmarks.term_counts import PROGRESS, STEPS
from benchmarks.term_tables import UNIT
from examples.shapes.demo import TEACHER
from examples.shapes.render import write_dataset
from lcm.config.run import TrainConfig
from lcm.training.setup import build_run

RESULTS = Path(__file__).parent / "results"
NAME = "term_steps.json"
AGAIN = f"{UNIT} again"
UPDATES = 1000
"""Updates of the run that the step is taken from."""


def make_step(folder: Path, name: str, flags: dict[str, Any], batch_size: int) -> Callable[[], Any]:
    """One update of this kind, on the same batch ever again."""
    config = TrainConfig.of(
        pretrained_teacher_model=str(TEACHER),
        train_data_dir=str(folder / "images"),
        output_dir=str(folder / name),
        cache_latents=True,
        latent_cache_dir=str(folder / "cache"),
        train_batch_size=batch_size,
        lora_rank=32,
        max_train_steps=UPDATES,
        **flags,
    )
    run, state = build_run(config)
    state.step = round(PROGRESS * UPDATES)
    randomise(state.student.parameters)
    batch = next(run.inputs.batches(range(1)))
    return toolkit_contender(run, state, batch, holds_encoders=False).step


def measure(batch_size: int, rounds: int) -> dict[str, Any]:
    """Seconds of every step and round."""
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder, "images"), batch_size)
        steps = {
            name: make_step(Path(folder), name, flags, batch_size) for name, flags in STEPS.items()
        }
        seconds = measure_seconds({**steps, AGAIN: steps[UNIT]}, rounds)
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "seconds": seconds,
    }


def term_steps_table(results: dict[str, Any]) -> str:
    """One line a step: median seconds, and the median ratio to `lcm`'s of the same round with its
    interval.
    """
    seconds = results.get("seconds", {})
    if not seconds:
        return "Not measured yet: `python -m benchmarks.term_steps` fills this in."
    rows = []
    for name, taken in seconds.items():
        middle, low, high = ratio(taken, seconds[UNIT])
        cells = [name, f"{median(taken):.2f}", f"{middle:.2f} ({low:.2f} to {high:.2f})"]
        rows.append(cells)
    return table(["step of", "seconds", f"over {UNIT}'s"], rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results_dir", type=Path, default=RESULTS)
    parser.add_argument("--batch_size", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args(argv)
    results = measure(args.batch_size, args.rounds)
    write_json(args.results_dir / NAME, results)
    print(term_steps_table(results))


if __name__ == "__main__":
    main()
