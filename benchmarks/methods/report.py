"""Writes the tables of docs/methods.md, between its markers, from `results/`, and draws the methods
side by side.

    python -m benchmarks.methods.report
    python -m benchmarks.methods.report --only reflow dmd --steps 1 --picture two_runs.png

The picture needs the adapters of `benchmarks.methods.run`; without any it is left as it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.methods import cost
from benchmarks.methods.plan import CAUSES, PLAN, Job, jobs_of, load_plan
from benchmarks.methods.run import OUTPUT_DIR
from benchmarks.methods.students import is_adapter, load_student
from benchmarks.methods.tables import causes_table, methods_table, teacher_table
from benchmarks.methods.teacher import GUIDANCE_SCALE, RESULTS, ddim_curve, read_rows
from examples.shapes.demo import TEACHER
from examples.shapes.evaluate import TEACHER_STEPS, decode, generate, load_pipe
from examples.shapes.pictures import labelled_rows, spread
from examples.shapes.render import CAPTIONS
from examples.shapes.tables import fill
from lcm.system.text import count

DOCUMENT = Path(__file__).parents[2] / "docs" / "methods.md"
EMPTY = "# Methods\n\n<!-- methods -->\n<!-- /methods -->\n\n<!-- teacher -->\n<!-- /teacher -->\n"
SHOWN_STEPS = 4


def read_results(results: Path) -> list[dict[str, Any]]:
    """Every run and seed measured so far."""
    return [json.loads(path.read_text()) for path in sorted(results.glob("*-seed*.json"))]


def read_costs(results: Path) -> dict[str, list[float]]:
    """Seconds per sample of every round, by run; empty where they were not measured."""
    path = results / cost.NAME
    seconds: dict[str, list[float]] = (
        json.loads(path.read_text())["seconds_per_sample"] if path.exists() else {}
    )
    return seconds


def filled(text: str, results: Path, order: list[str]) -> str:
    """The document with all tables as the results say; `order` is that of the plan. A table without
    results stays as it is.
    """
    runs, rows = read_results(results), read_rows(results)
    text = (
        fill(text, "methods", methods_table(runs, ddim_curve(results), read_costs(results), order))
        if runs
        else text
    )
    text = fill(text, "teacher", teacher_table(rows)) if rows else text
    causes = read_results(results.parent / CAUSES.stem)
    return (
        fill(text, "causes", causes_table(causes, [run.name for run in load_plan(CAUSES)]))
        if causes
        else text
    )


def draw_rows(pipe: Any, steps: int, guidance_scale: float, eta: float = 0.0) -> list[Image.Image]:
    """Ten captions, their index being the seed, as in every set of pictures."""
    shown = spread(len(CAPTIONS))
    return decode(
        pipe,
        generate(pipe, [CAPTIONS[i] for i in shown], list(shown), steps, guidance_scale, eta=eta),
    )


def picture(runs: Path, jobs: list[Job], shown_steps: int) -> Image.Image | None:
    """The teacher, then every job that has its adapter, each with so many steps, or its own number
    that is nearest.
    """
    found = [job for job in jobs if job.run.student == "base" or is_adapter(runs / job.name)]
    if all(job.run.student == "base" for job in found):
        return None
    absent = [job.name for job in jobs if job not in found]
    if absent:
        print(f"not in the picture: {', '.join(absent)}")
    pipe = load_pipe(TEACHER)
    rows = [
        (f"teacher\n{count(n, 'step')}", draw_rows(pipe, n, GUIDANCE_SCALE))
        for n in (TEACHER_STEPS, shown_steps)
    ]
    for job in found:
        pipe, play = load_student(job, None if job.run.student == "base" else runs / job.name)
        steps = min(play.num_inference_steps, key=lambda n: abs(n - shown_steps))
        label = f"{job.run.name}\n{count(steps, 'step')}"
        rows.append((label, draw_rows(pipe, steps, play.guidance_scale, play.eta)))
    return labelled_rows(rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument(
        "--output_dir", type=Path, default=OUTPUT_DIR, help="where the adapters are"
    )
    parser.add_argument("--results_dir", type=Path, default=RESULTS)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="the picture's runs of the plan"
    )
    parser.add_argument(
        "--steps", type=int, default=SHOWN_STEPS, help="of the picture, or the nearest of a run's"
    )
    parser.add_argument("--picture", default="methods.png", help="its name")
    args = parser.parse_args(argv)
    plan = load_plan(args.plan)
    try:
        shown = jobs_of(plan, args.only, [0])
    except ValueError as error:
        parser.error(str(error))
    text = args.document.read_text() if args.document.exists() else EMPTY
    text = filled(text, args.results_dir, [run.name for run in plan])
    args.document.parent.mkdir(parents=True, exist_ok=True)
    args.document.write_text(text)
    drawn = picture(args.output_dir / "runs", shown, args.steps)
    if drawn:
        drawn.save(args.results_dir / args.picture)


if __name__ == "__main__":
    main()
