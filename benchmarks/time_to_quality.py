"""How much work until a student draws well: `results/time_to_quality.json`.

    OMP_NUM_THREADS=1 python -m benchmarks.time_to_quality --seeds 0 1 2

On the teachers and with the learners that `time_to_quality.yaml` lists: the logic of the public
LCM-LoRA script (two U-Nets, see public_scripts.py) with the settings of its README, and this
toolkit without any flag. Those of a teacher learn from the same images, in one process and in
turn, some updates each, so that whatever else the machine does falls on all. After its turn each is
scored. The clock counts this process's own work from loading the model on: encoding into a cache
and drawing trajectories are in it, scoring is not.

A level is reached where two scorings running are at it or above; the time is that of the first.
What has reached all levels rests.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from benchmarks.learners import KINDS, NUM_STEPS, Learner
from benchmarks.methods.locks import lock
from benchmarks.methods.tables import table
from benchmarks.methods.teacher import write_json
from benchmarks.rounds import Clock, process_seconds
from examples.shapes.evaluate import decode, generate, prompts_and_seeds
from examples.shapes.judge import Judge
from examples.worlds import World, load_world

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results"
PLAN = HERE / "time_to_quality.yaml"
NAME = "time_to_quality.json"
LEVELS = (0.8, 0.9)
NUM_IMAGES = 192
"""One of each caption."""
IMAGES = 2000
"""To train on."""


@dataclass
class Course:
    """One learner on its way. `curve` holds a row a scoring: updates, seconds by `clock`, accuracy
    by number of steps.
    """

    name: str
    learner: Learner
    max_updates: int
    seconds: float
    clock: Clock = process_seconds
    updates: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)

    def train(self, count: int) -> None:
        count = min(count, self.max_updates - self.updates)

        def learn() -> None:
            for _ in range(count):
                self.learner.update()

        self.seconds += self.clock(learn)
        self.updates += count

    def score(self, judge: Judge, num_images: int) -> None:
        prompts, seeds = prompts_and_seeds(num_images, judge.world)
        row: dict[str, Any] = {"updates": self.updates, "seconds": round(self.seconds, 2)}
        with self.learner.drawing() as (pipe, how):
            for n in NUM_STEPS:
                latents = generate(pipe, prompts, seeds, n, **how)
                row[str(n)] = round(
                    float(judge.correct(decode(pipe, latents), prompts).all(axis=1).mean()), 4
                )
        self.curve.append(row)

    @property
    def is_over(self) -> bool:
        return self.updates >= self.max_updates or all(
            math.isfinite(reached(self.curve, n, level)) for n in NUM_STEPS for level in LEVELS
        )


def reached(curve: Sequence[dict[str, Any]], num_steps: int, level: float) -> float:
    """Process seconds of the first of two scorings running with at least `level`; infinite where
    there are none.
    """
    for row, following in itertools.pairwise(curve):
        if row[str(num_steps)] >= level and following[str(num_steps)] >= level:
            return float(row["seconds"])
    return math.inf


def turn(updates: int) -> int:
    """Updates until the next scoring: 10, and from 100 on a tenth of those made."""
    return max(10, updates // 10)


def begin(
    name: str, flags: dict[str, Any], teacher: Path, data: Path, folder: Path, seed: int
) -> Course:
    """Loads the models and makes what a run makes before its first update; `flags` is an entry of
    the plan.
    """
    folder.mkdir()
    own = {key: value for key, value in flags.items() if key != "kind"}
    start = time.process_time()
    learner = KINDS[flags["kind"]](own, teacher, data, folder, seed)
    return Course(name, learner, own["max_train_steps"], time.process_time() - start)


def run(learners: dict[str, dict[str, Any]], teacher: dict[str, str], seed: int) -> dict[str, Any]:
    """Name -> curve, of all learners on a teacher of the plan."""
    world: World = load_world(teacher["world"])
    judge = Judge.load(world=world)
    # whole rounds of the captions, of which a world may have more
    num_images = max(NUM_IMAGES, len(world.captions))
    with tempfile.TemporaryDirectory() as scratch:
        data, prompts = Path(scratch) / "images", Path(scratch) / "prompts.txt"
        world.write_dataset(data, IMAGES, seed=seed)
        prompts.write_text("\n".join(world.captions) + "\n")
        courses = [
            begin(
                name,
                {**flags, "prompts_file": str(prompts)} if flags.get("prompts_file") else flags,
                ROOT / teacher["path"],
                data,
                Path(scratch) / name,
                seed,
            )
            for name, flags in learners.items()
        ]
        while going := [course for course in courses if not course.is_over]:
            for course in going:
                course.train(turn(course.updates))
                course.score(judge, num_images)
                print(seed, course.name, json.dumps(course.curve[-1]), flush=True)
    return {course.name: course.curve for course in courses}


def spread(values: Sequence[float]) -> str:
    """The median, with the range where there are several; infinity is what was never reached."""
    middle = median(values)
    text = "-" if math.isinf(middle) else f"{middle:.0f}"
    low, high = min(values), max(values)
    return (
        text
        if low == high
        else f"{text} ({low:.0f} to {'-' if math.isinf(high) else format(high, '.0f')})"
    )


def times_sooner(
    first: Sequence[dict[str, Any]], mine: Sequence[dict[str, Any]], num_steps: int, level: float
) -> tuple[float, bool]:
    """How many times sooner `mine` was there than `first`, and whether that is only a bound, since
    `first` ended before.
    """
    theirs, ours = reached(first, num_steps, level), reached(mine, num_steps, level)
    if math.isinf(ours):
        return 0.0, False
    return (first[-1]["seconds"] if math.isinf(theirs) else theirs) / ours, math.isinf(theirs)


def quality_table(results: dict[str, Any]) -> str:
    """Seconds to every level, and how many times sooner that is than the first line's of the same
    teacher.
    """
    rows = []
    for teacher, seeds in results["teachers"].items():
        rows += teacher_rows(teacher, list(seeds.values()))
    heads = [f"{level:.0%} at {n} steps" for n, level in itertools.product(NUM_STEPS, LEVELS)]
    return table(["teacher", "seeds", "seconds until", *heads], rows)


def teacher_rows(teacher: str, seeds: list[dict[str, Any]]) -> list[list[str]]:
    """The lines of one teacher; the curves of each seed by the learner's name."""
    names, rows = list(seeds[0]), []
    for name in names:
        row = [teacher, str(len(seeds)), name]
        for n, level in itertools.product(NUM_STEPS, LEVELS):
            cell = spread([reached(curves[name], n, level) for curves in seeds])
            sooner = [times_sooner(curves[names[0]], curves[name], n, level) for curves in seeds]
            if name != names[0] and (times := median(ratio for ratio, _ in sooner)):
                cell += f"; {'> ' if any(bound for _, bound in sooner) else ''}{times:.1f}x"
            row.append(cell)
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results_dir", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    plan, names = load_plan(), list(load_plan()["teachers"])
    parser.add_argument("--teachers", nargs="+", choices=names, default=names)
    args = parser.parse_args(argv)
    path = args.results_dir / NAME
    for seed, name in itertools.product(args.seeds, args.teachers):
        if str(seed) in results_of(path, plan)["teachers"].get(name, {}):
            continue
        curves = run(plan["learners"], plan["teachers"][name], seed)
        with lock(path.with_suffix(".lock"), wait=True):
            results = results_of(path, plan)
            results["teachers"].setdefault(name, {})[str(seed)] = curves
            write_json(path, results)
    print(quality_table(results_of(path, plan)))


def load_plan() -> dict[str, Any]:
    """The teachers, each a world and a folder, and the learners, each a kind and its flags."""
    plan: dict[str, Any] = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    return plan


def results_of(path: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """The results so far; none where they are those of another plan."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if results.get("plan") == plan:
        return results
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    return {**machine, "plan": plan, "teachers": {}}


if __name__ == "__main__":
    main()
