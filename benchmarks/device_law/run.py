"""One step of every method with every option, on every published model at true size.

    python -m benchmarks.device_law.run

needs no GPU and the memory of a small program; it takes some minutes and raises at the first step
that reads the device, or leaves a part on the CPU, where it may not. `--teachers`, `--runs` and
`--methods` choose some of them.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.device_law.runs import TEACHERS, build_pipe, trainer_on
from benchmarks.device_law.steps import (
    RUNS,
    contents_of,
    objective_of,
    objectives,
    step_under_law,
    unexpected,
)
from benchmarks.methods.tables import table
from lcm.methods import METHODS


def words(folder: Path, flags: dict[str, object]) -> list[str]:
    """The command line of a small run."""
    values = {
        "pretrained_teacher_model": "teacher",
        "train_data_dir": folder,
        "output_dir": folder / "out",
        "train_batch_size": 1,
        "max_train_steps": 1000,
        "lora_rank": 4,
        **flags,
    }
    line: list[str] = []
    for name, value in values.items():
        if value is not None:
            line += [f"--{name}", str(value)]
    return line


def steps_of(teacher: str, flags: dict[str, object], methods: list[str], folder: Path) -> list[str]:
    """A row of the table: what the steps of a run with these flags asked of the host."""
    start = time.process_time()
    trainer = trainer_on([build_pipe(teacher)], words(folder, flags))
    reads, waits, steps = set(), {"pixels": 0}, 0
    for name, options in objectives():
        for content in contents_of(name) if name in methods else ():
            law, _ = step_under_law(trainer, objective_of(trainer, name, **options), content)
            if found := unexpected(law, trainer, content):
                raise SystemExit(f"{teacher}, {flags}, {name} {options}, {content}: {found}")
            reads.add(law.reads.total())
            waits[content] = max(waits.get(content, 0), law.waits.total())
            steps += 1
    seconds = f"{time.process_time() - start:.0f}"
    others = max(n for content, n in waits.items() if content != "pixels")
    return [
        str(steps),
        "/".join(map(str, sorted(reads))),
        str(waits["pixels"]),
        str(others),
        seconds,
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.device_law.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, choices in (("teachers", TEACHERS), ("runs", RUNS), ("methods", METHODS)):
        parser.add_argument(f"--{name}", nargs="+", choices=[*choices], default=[*choices])
    args = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(Path(folder) / "0.png")
        (Path(folder) / "0.txt").write_text("a picture")
        for teacher, run in itertools.product(args.teachers, args.runs):
            row = steps_of(teacher, RUNS[run], args.methods, Path(folder))
            print(teacher, run, *row, flush=True)
            rows.append([teacher, run, *row])
    heads = ["model", "run", "steps", "reads a step", "waits", "with a cache", "seconds of CPU"]
    print(table(heads, rows))


if __name__ == "__main__":
    main()
