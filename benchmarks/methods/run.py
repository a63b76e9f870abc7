"""Trains and scores every run of the plan: one JSON a run and seed in `results/`.

    python -m benchmarks.methods.run

What is finished is not repeated, what was interrupted goes on. Several of these commands can work
side by side: each takes the next run that no other is at. A run that fails is noted and the others
go on; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.methods.locks import BusyError, lock
from benchmarks.methods.plan import PLAN, Job, jobs_of, load_plan
from benchmarks.methods.scoring import check_num_images, load_reference, measure
from benchmarks.methods.students import load_student, prepare_adapter
from benchmarks.methods.teacher import GUIDANCE_SCALE, RESULTS, measure_teacher, write_json
from examples.shapes.demo import TEACHER
from examples.shapes.evaluate import generate, prompts_and_seeds
from examples.shapes.judge import Judge
from examples.shapes.render import CAPTIONS, write_dataset
from lcm.evaluation.subjects import is_paired

NUM_STEPS = (1, 2, 4, 8)
NUM_TRAINING_IMAGES = 7680
OUTPUT_DIR = Path("out/methods")
TEACHER_JOB = "teacher"


def prepare_data(output_dir: Path, num_images: int) -> dict[str, Path]:
    """What all runs share, made by whoever comes first: pictures, prompts and the teacher's
    endpoints.
    """
    images, prompts = output_dir / "data", output_dir / "prompts.txt"
    with lock(output_dir / "locks" / "shared", wait=True):
        if not (images / "complete").exists():
            write_dataset(images, NUM_TRAINING_IMAGES)
            (images / "complete").touch()
        prompts.write_text("\n".join(CAPTIONS) + "\n")
        load_reference(TEACHER, num_images, GUIDANCE_SCALE)
    return {"images": images, "prompts": prompts}


def score(job: Job, adapter: Path | None, num_images: int) -> dict[str, Any]:
    """What is kept of a job: how it was made, how it is played, and a row of measures for every
    number of steps.
    """
    judge, (pipe, play) = Judge.load(), load_student(job, adapter)
    teacher = Path(job.run.flags["pretrained_teacher_model"])
    reference = load_reference(teacher, num_images, job.run.reference_guidance_scale)
    rows: dict[str, dict[str, Any]] = {}
    for n in NUM_STEPS:
        latents = generate(
            pipe, *prompts_and_seeds(num_images), n, play.guidance_scale, eta=play.eta
        )
        rows[str(n)] = measure(
            pipe, judge, latents, reference, is_paired=is_paired(play.scheduler, play.eta, n)
        )
        print(f"{job.name}: steps {n}: {rows[str(n)]['all_right']:.1%}", flush=True)
    return {
        "name": job.run.name,
        "seed": job.seed,
        "objective": play.objective,
        "control": job.run.control,
        "note": job.run.note,
        "flags": job.run.flags,
        "reference_guidance_scale": job.run.reference_guidance_scale,
        "scheduler": play.scheduler,
        "eta": play.eta,
        "guidance_scale": play.guidance_scale,
        "steps": rows,
    }


def do_job(job: Job, args: argparse.Namespace, data: dict[str, Path]) -> None:
    """Makes the adapter, scores it and writes the result, unless that is there. Raises BusyError
    when another process is at it.
    """
    result = args.results_dir / f"{job.name}.json"
    with lock(args.output_dir / "locks" / job.name) as owner:
        if result.exists():
            made_with = json.loads(result.read_text())["flags"]
            other = (
                ""
                if made_with == job.run.flags
                else f" with other flags than the plan's; delete {result} to repeat it"
            )
            print(f"{job.name}: done{other}", flush=True)
            return
        log = args.output_dir / "logs" / f"{job.name}.log"
        adapter = prepare_adapter(job, data, args.output_dir / "runs", log, owner)
        write_json(result, score(job, adapter, args.num_images))


def attempt(name: str, errors: Path, work: Callable[[], None]) -> bool:
    """Calls `work`; what it raises is kept as errors/<name>.txt and printed. Returns whether that
    happened.
    """
    note = errors / f"{name}.txt"
    try:
        work()
    except BusyError as busy:
        print(f"{name}: skipped, {busy}", flush=True)
        return False
    except Exception as error:
        errors.mkdir(parents=True, exist_ok=True)
        note.write_text(traceback.format_exc())
        print(f"{name}: FAILED, {error}\n{name}: the traceback is in {note}", flush=True)
        return True
    note.unlink(missing_ok=True)
    return False


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[Job]]:
    """The arguments and the jobs they choose; a mistake ends the program with one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help=f"runs of the plan, or {TEACHER_JOB}"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[], help="only these of the plan's seeds"
    )
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument(
        "--output_dir", type=Path, default=OUTPUT_DIR, help="data, adapters, logs and locks"
    )
    parser.add_argument("--results_dir", type=Path, default=RESULTS, help="one JSON a run and seed")
    parser.add_argument("--num_images", type=int, default=1536, help="pictures a cell")
    args = parser.parse_args(argv)
    try:
        check_num_images(args.num_images)
        only = [name for name in args.only if name != TEACHER_JOB]
        return args, jobs_of(
            load_plan(args.plan), only, args.seeds
        ) if only or not args.only else []
    except ValueError as error:
        parser.error(str(error))


def main(argv: list[str] | None = None) -> int:
    """The exit status: 1 when a run failed."""
    args, jobs = parse(argv)
    errors = args.output_dir / "errors"
    data = prepare_data(args.output_dir, args.num_images)

    def teacher() -> None:
        with lock(args.output_dir / "locks" / TEACHER_JOB):
            measure_teacher(args.results_dir, args.num_images)

    failed = []
    # other plans add runs, not another teacher
    if TEACHER_JOB in args.only or (not args.only and args.plan == PLAN):
        failed += [TEACHER_JOB] * attempt(TEACHER_JOB, errors, teacher)
    for job in jobs:
        failed += [job.name] * attempt(job.name, errors, partial(do_job, job, args, data))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
