"""Rates, ranks and optimizers that need no rate, on one teacher: `results/learning_rate.json`.

    pip install prodigyopt schedulefree
    OMP_NUM_THREADS=1 python -m benchmarks.learning_rate

Each cell is the bare command with another optimizer, rate or rank, 200 updates of 24, scored after
100 and 200 of them in 2 and 4 steps. Prodigy (Mishchenko and Defazio 2023) finds its rate by
itself, the schedule-free AdamW (Defazio et al. 2024) its decay. Neither is a flag: here they stand
in the place of our optimizer. Cells that are there are not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.bare_command import BATCH_SIZE, SUBJECTS, data_words, teacher_words
from benchmarks.methods.tables import table
from benchmarks.methods.teacher import write_json
from examples.shapes.evaluate import decode, generate, interval, prompts_and_seeds
from examples.shapes.judge import Judge
from lcm.config.command_line import parse_config
from lcm.inference import make_scheduler
from lcm.training.setup import build_run
from lcm.training.step import train_step

NAME = "learning_rate.json"
RESULTS = Path(__file__).parent / "results" / NAME
SUBJECT = SUBJECTS["v_prediction, zero SNR, pictures"]
SCORED = (100, 200)
STEPS = (2, 4)
NUM_IMAGES = 384
OPTIMIZERS = {
    "Prodigy": ("prodigyopt", "Prodigy", {"betas": (0.9, 0.99)}),
    "schedule-free AdamW": ("schedulefree", "AdamWScheduleFree", {"betas": (0.9, 0.99)}),
}
"""Name -> package, class and what it is made with beside its rate."""
CELLS = (
    *(("AdamW", rank, rate) for rank in (64, 8) for rate in (5e-4, 1e-3, 2e-3, 4e-3)),
    ("Prodigy", 64, 1.0),
    *(("schedule-free AdamW", 64, rate) for rate in (1e-3, 2e-3)),
)


def optimizer_in_place(name: str, rate: float) -> Any:
    """A context in which runs are built with the optimizer of that name."""
    if name not in OPTIMIZERS:
        return nullcontext()
    package, kind, options = OPTIMIZERS[name]
    make = getattr(import_module(package), kind)
    return patch(
        "lcm.training.student.make_optimizer",
        lambda config, parameters, beside=(), *, fused: make(parameters, lr=rate, **options),
    )


def measure(name: str, rank: int, rate: float, output_dir: Path) -> dict[str, Any]:
    """Trains a cell and scores it on the way."""
    run_dir = output_dir / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    words = [
        *(*teacher_words(SUBJECT, output_dir), *data_words(SUBJECT, output_dir)),
        *("--output_dir", str(run_dir), "--max_train_steps", str(SCORED[-1])),
        *("--train_batch_size", str(BATCH_SIZE), "--lora_rank", str(rank), "--cache_latents"),
        *("--latent_cache_dir", str(output_dir / "cache"), "--validation_prompts", "none"),
    ]
    if name == "AdamW":
        words += ["--learning_rate", str(rate)]
    with optimizer_in_place(name, rate):
        run, state = build_run(parse_config(words))
    optimizer: Any = getattr(state.student.optimizer, "optimizer", state.student.optimizer)
    judge, (prompts, seeds) = Judge.load(), prompts_and_seeds(NUM_IMAGES)
    batches = run.inputs.batches(range(run.facts.num_updates))
    is_free = name.startswith("schedule-free")
    rows, seconds = [], 0.0
    for update in range(1, SCORED[-1] + 1):
        begin = time.process_time()
        if is_free:
            optimizer.train()
        train_step(run, state, batches)
        seconds += time.process_time() - begin
        if update not in SCORED:
            continue
        # a schedule-free optimizer keeps the average that it is meant to be drawn with
        if is_free:
            optimizer.eval()
        with nullcontext() if is_free else state.student.as_exported(), torch.no_grad():
            for steps in STEPS:
                recipe, family = run.publisher.recipe, run.family
                scheduler = make_scheduler(family.pipe.scheduler.config, recipe)
                pipe = family.few_step_pipe(state.student.unet.eval(), scheduler)
                latents = generate(pipe, prompts, seeds, steps, recipe.guidance_scale)
                right = float(judge.correct(decode(pipe, latents), prompts).all(axis=1).mean())
                rows.append({"update": update, "steps": steps, "right": round(right, 4)})
        state.student.unet.train()
    found = optimizer.param_groups[0].get("d")
    return {
        **{"optimizer": name, "rank": rank, "rate": rate, "pictures": NUM_IMAGES},
        **{"process_seconds": round(seconds, 1), "rate_found": found and float(found)},
        "rows": rows,
    }


def rates_table(results: dict[str, Any]) -> str:
    """A line a cell: right of all, after so many updates in so many steps."""
    head = ["optimizer", "rank", "rate"]
    head += [f"{update} updates, {steps} steps" for update in SCORED for steps in STEPS]
    rows = []
    for cell in results["cells"]:
        rate = f"{cell['rate']:g}"
        if cell["rate_found"]:
            rate += f" x {cell['rate_found']:.1e}, which it found"
        shares = [
            f"{row['right']:.1%} ± {interval(row['right'], cell['pictures']):.1%}"
            for row in cell["rows"]
        ]
        rows.append([cell["optimizer"], str(cell["rank"]), rate, *shares])
    return table(head, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, default=Path("out/learning_rate"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    results = json.loads(args.results.read_text()) if args.results.exists() else {"cells": []}
    done = {(cell["optimizer"], cell["rank"], cell["rate"]) for cell in results["cells"]}
    for cell in CELLS:
        if cell not in done:
            results["cells"].append(measure(*cell, args.output_dir))
            print(json.dumps(results["cells"][-1]), flush=True)
            write_json(args.results, results)
    print(rates_table(results))


if __name__ == "__main__":
    main()
