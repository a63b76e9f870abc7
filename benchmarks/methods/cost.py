"""What a training step of every run of the plan costs, in units of `lcm`: `results/cost.json`.

    OMP_NUM_THREADS=1 python -m benchmarks.methods.cost

All runs stand side by side in one process and take their steps in turn, so that whatever else the
machine does falls on all of them; the clock counts this process's own work. `lcm` is there twice:
the second one's distance from 1 is the noise.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.methods.plan import PLAN, Run, load_plan
from benchmarks.methods.teacher import RESULTS, write_json
from examples.shapes.render import CAPTIONS, write_dataset
from lcm.config.run import TrainConfig
from lcm.training.setup import build_run
from lcm.training.step import train_step

NAME = "cost.json"
UNIT = "lcm"
AGAIN = "lcm again"


def stepper(run: Run, data: dict[str, Path], output_dir: Path) -> tuple[Callable[[], object], int]:
    """A call that makes one update of the run, and the samples in it. Trajectories are made here,
    one a prompt.
    """
    flags = {**run.flags_on(data), "output_dir": output_dir}
    if run.data == "prompts":
        flags["trajectories_per_prompt"] = 1
    flags = {
        name: str(value) if isinstance(value, Path) else value for name, value in flags.items()
    }
    made, state = build_run(TrainConfig.of(**flags))
    batches = made.inputs.batches(range(made.facts.num_updates))
    return lambda: train_step(made, state, batches), made.facts.samples_per_step


def measure_costs(runs: list[Run], rounds: int) -> dict[str, Any]:
    """Process seconds per sample, by run and round; the first step of each is not counted."""
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = {"images": Path(folder, "images"), "prompts": Path(folder, "prompts.txt")}
        write_dataset(data["images"], len(CAPTIONS))
        data["prompts"].write_text("\n".join(CAPTIONS) + "\n")
        steppers = {run.name: stepper(run, data, Path(folder, run.name)) for run in runs}
        steppers[AGAIN] = steppers[UNIT]
        for number in range(rounds + 1):
            for name, (step, samples) in steppers.items():
                start = time.process_time()
                step()
                if number:
                    seconds.setdefault(name, []).append(
                        round((time.process_time() - start) / samples, 6)
                    )
    return {"threads": torch.get_num_threads(), "seconds_per_sample": seconds}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--results_dir", type=Path, default=RESULTS)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args(argv)
    runs = [run for run in load_plan(args.plan) if run.student == "trained"]
    write_json(args.results_dir / NAME, measure_costs(runs, args.rounds))


if __name__ == "__main__":
    main()
