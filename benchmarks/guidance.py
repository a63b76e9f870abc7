"""What adapters answer to guidance and to negative prompts, and what a first step by the teacher
brings: `results/guidance.json` and a picture.

    OMP_NUM_THREADS=1 python -m benchmarks.guidance

On the tiny world, for both bundled teachers: a plain adapter, one of --preserve_cfg, and one of a
guided teacher with a fifth of the prompts dropped. Whatever is trained or measured already is not
repeated; all of it takes about 75 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lcm
from benchmarks.guidance_measures import (
    guided_row,
    negative_row,
    picture_of,
    prompts_and_seeds,
)
from benchmarks.guidance_tables import NAME, RESULTS
from benchmarks.methods.students import words
from benchmarks.methods.teacher import write_json
from examples.shapes.demo import HERE as SHAPES
from examples.shapes.evaluate import TEACHER_STEPS, load_pipe
from examples.shapes.judge import Judge
from examples.shapes.render import write_dataset

TEACHERS = {"epsilon": SHAPES / "teacher", "v": SHAPES / "teacher_v"}
TEACHER = "teacher"
"""What the rows of a teacher itself are called."""
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "preserve_cfg": {"preserve_cfg": True},
    "guided, prompts dropped": {"proportion_empty_prompts": 0.2},
}
FLAGS: dict[str, Any] = {
    "max_train_steps": 400,
    "train_batch_size": 24,
    "checkpointing_steps": 200,
    "validation_prompts": "none",
    "resume_from_checkpoint": "latest",
}
PICTURES = 7680
"""To train on."""
GUIDANCE = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0)
STEPS = (4, 8)
FORBIDDING = {
    TEACHER: (1.5, 2.0, 3.0, 5.0),
    "plain": (1.0, 1.5, 2.0),
    "preserve_cfg": (1.5, 2.0, 3.0, 5.0),
    "guided, prompts dropped": (1.0, 1.5, 2.0),
}
"""Guidance with which each is given a negative prompt."""
BEGUN = {"plain": (1.0,), "preserve_cfg": (3.0, 5.0), "guided, prompts dropped": (1.0,)}
"""Guidance with which the teacher makes the first step of each."""


@dataclass(frozen=True)
class Cell:
    """One row of the results: who draws, and with what."""

    kind: str
    teacher: str
    who: str
    steps: int
    guidance: float
    first: int = 0

    @property
    def key(self) -> str:
        """The name of the row, such as "draw/v/plain/4/1.5/0"."""
        return "/".join(map(str, vars(self).values()))


def cells() -> Iterator[Cell]:
    """All rows, those of a teacher before those that are compared with it."""
    for teacher in TEACHERS:
        for guidance in GUIDANCE:
            yield Cell("draw", teacher, TEACHER, TEACHER_STEPS, guidance)
        for who in (TEACHER, *ADAPTERS):
            numbers = (TEACHER_STEPS,) if who == TEACHER else STEPS
            for steps in numbers:
                for guidance in GUIDANCE if who != TEACHER else ():
                    yield Cell("draw", teacher, who, steps, guidance)
                for guidance in BEGUN.get(who, ()):
                    yield Cell("draw", teacher, who, steps, guidance, first=1)
                for guidance in FORBIDDING[who]:
                    yield Cell("negative", teacher, who, steps, guidance)


def train(teacher: str, who: str, output_dir: Path) -> Path:
    """The folder of a trained adapter. Raises CalledProcessError where training fails."""
    folder = output_dir / f"{teacher} {who}".replace(", ", " ").replace(" ", "-")
    if (folder / "README.md").exists():  # the card comes last
        return folder
    data = output_dir / "data"
    if not (data / "complete").exists():
        write_dataset(data, PICTURES)
        (data / "complete").touch()
    flags = {
        **FLAGS,
        **ADAPTERS[who],
        "pretrained_teacher_model": TEACHERS[teacher],
        "train_data_dir": data,
        "output_dir": folder,
        "cache_latents": True,
        "latent_cache_dir": output_dir / "cache",
    }
    switches = [f"--{name}" for name, value in flags.items() if value is True]
    valued = {name: value for name, value in flags.items() if value is not True}
    subprocess.run(
        [sys.executable, "train_lcm_lora.py", *words(valued), *switches],
        check=True,
        cwd=SHAPES.parent.parent,
    )
    return folder


class Players:
    """Pipelines with adapters, each made when it is asked for; the last one is kept."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir, self.last = output_dir, ("", "")
        self.pipe: Any = None

    def of(self, cell: Cell) -> Any:
        """A stock pipeline of the teacher, with the cell's adapter and first steps."""
        if self.last != (cell.teacher, cell.who):
            self.pipe = load_pipe(TEACHERS[cell.teacher])
            self.last = (cell.teacher, cell.who)
            if cell.who != TEACHER:
                lcm.attach(self.pipe, train(*self.last, self.output_dir))
        if cell.who != TEACHER:
            lcm.attach(self.pipe, {"lcm": 1.0}, teacher_first_steps=cell.first)
        return self.pipe


def measure(cell: Cell, pipe: Any, judge: Judge, rows: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a cell; `rows` are those measured so far, the teacher's among them."""
    if cell.kind == "draw":
        return guided_row(pipe, judge, cell.steps, cell.guidance)
    own = [row for row in rows.values() if row["kind"] == "negative" and row["who"] == TEACHER]
    found = next((row["forbidden"] for row in own if row["teacher"] == cell.teacher), None)
    return negative_row(pipe, judge, cell.steps, cell.guidance, found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, default=Path("out/guidance"))
    parser.add_argument("--results", type=Path, default=RESULTS / NAME)
    parser.add_argument("--only", nargs="+", choices=TEACHERS, default=list(TEACHERS))
    args = parser.parse_args()
    rows: dict[str, Any] = json.loads(args.results.read_text()) if args.results.exists() else {}
    judge, players = Judge.load(), Players(args.output_dir)
    for cell in cells():
        if cell.key in rows or cell.teacher not in args.only:
            continue
        rows[cell.key] = {**vars(cell), **measure(cell, players.of(cell), judge, rows)}
        write_json(args.results, rows)
        print(cell.key, json.dumps(rows[cell.key]), flush=True)
    prompts, seeds = prompts_and_seeds()
    for teacher in args.only:
        pipe = players.of(Cell("draw", teacher, "preserve_cfg", 8, 1.0))
        picture = picture_of(pipe, prompts[:6], seeds[:6], 8, GUIDANCE)
        picture.save(args.output_dir / f"guidance_{teacher}.png")


if __name__ == "__main__":
    main()
