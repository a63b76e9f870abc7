"""How start-up, cache and speed grow with the data and with processes: `results/scale.json`.

    python -m benchmarks.scale                                     # half an hour on two cores
    python -m benchmarks.scale --sizes 1000 10000 --processes 1

Folders of 1000, 10 000 and 100 000 captioned pictures of the tiny world, on one process and on two,
each three times: as they are, with `--cache_latents` that makes the cache, and with the cache
there; 32 pixels, batches of 8 a process. Start-up is the time until the run could take its first
step, without importing the libraries: every picture is decoded once, unless the cache knows it.
Images per second are of 5 windows of 10 updates, their median, lowest and highest. Wall time: the
machine has to be idle. Cells that are in the results are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.methods.tables import table
from benchmarks.methods.teacher import write_json
from examples.shapes.demo import TEACHER
from examples.shapes.render import write_dataset

RESULTS = Path(__file__).parent / "results"
NAME = "scale.json"
SIZES = (1000, 10_000, 100_000)
PROCESSES = (1, 2)
WINDOWS, UPDATES = 5, 10
MODES = ("pixels", "cache made", "cache there")


def worker(flags: list[str], result: Path) -> None:
    """One launched process: a run's start-up and the speed of its updates. The main process writes
    `result`.
    """
    from lcm.config.command_line import parse_config
    from lcm.training.setup import build_run
    from lcm.training.step import train_step

    start = time.perf_counter()
    run, state = build_run(parse_config(flags))
    run.machine.accelerator.wait_for_everyone()
    startup = time.perf_counter() - start
    batches = run.inputs.batches(range(run.facts.num_updates))
    train_step(run, state, batches)
    speeds = []
    for _ in range(WINDOWS):
        start = time.perf_counter()
        for _ in range(UPDATES):
            train_step(run, state, batches)
        samples = UPDATES * run.facts.samples_per_step
        speeds.append(round(samples / (time.perf_counter() - start), 2))
    if run.machine.is_main:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        write_json(
            result,
            {
                "startup_seconds": round(startup, 2),
                "images_per_second": speeds,
                "peak_gib": round(peak, 3),
            },
        )


def launch(flags: list[str], num_processes: int, result: Path) -> dict[str, Any]:
    """`worker` under `accelerate launch`. Raises CalledProcessError when it fails."""
    several = ["--multi_gpu", "--main_process_port", "0"] if num_processes > 1 else ["--cpu"]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--num_processes",
        str(num_processes),
        *several,
    ]
    command += [
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "-m",
        "benchmarks.scale",
    ]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--worker", str(result), *flags], check=True, env=environment)
    return dict(json.loads(result.read_text()))


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(images: Path, num_processes: int) -> dict[str, dict[str, Any]]:
    """The three modes on one folder of images."""
    with tempfile.TemporaryDirectory() as scratch:
        cache, result = Path(scratch) / "cache", Path(scratch) / "result.json"
        plain = [
            "--pretrained_teacher_model",
            str(TEACHER),
            "--train_data_dir",
            str(images),
            "--output_dir",
            f"{scratch}/out",
        ]
        plain += ["--resolution", "32", "--train_batch_size", "8", "--lora_rank", "4"]
        plain += ["--max_train_steps", str(WINDOWS * UPDATES + 1)]
        cached = [*plain, "--cache_latents", "True", "--latent_cache_dir", str(cache)]
        found = {
            mode: launch(flags, num_processes, result)
            for mode, flags in zip(MODES, (plain, cached, cached), strict=True)
        }
        found["cache there"]["cache_bytes"] = folder_size(cache)
    return found


def scale_table(results: dict[str, Any]) -> str:
    rows = []
    for cell in results["cells"]:
        for mode, found in cell["modes"].items():
            speeds = found["images_per_second"]
            speed = f"{median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f})"
            size = f"{found['cache_bytes'] / 2**20:.0f}" if "cache_bytes" in found else ""
            row = [
                f"{cell['images']:,}".replace(",", " "),
                str(cell["processes"]),
                mode,
                f"{found['startup_seconds']:.1f}",
            ]
            rows.append([*row, speed, f"{found['peak_gib']:.2f}", size])
    head = [
        "images",
        "processes",
        "",
        "start-up, s",
        "images/s",
        "memory of a process, GiB",
        "cache, MiB",
    ]
    return table(head, rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results_dir", type=Path, default=RESULTS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args, flags = parser.parse_known_args(argv)
    if args.worker:
        worker(flags, args.worker)
        return
    path = args.results_dir / NAME
    results = json.loads(path.read_text()) if path.exists() else {"cells": []}
    for size in args.sizes:
        done = {(cell["images"], cell["processes"]) for cell in results["cells"]}
        missing = [count for count in args.processes if (size, count) not in done]
        if not missing:
            continue
        images = Path(tempfile.mkdtemp()) / "images"
        write_dataset(images, size)
        for count in missing:
            results["cells"].append(
                {"images": size, "processes": count, "modes": measure(images, count)}
            )
            write_json(path, results)
        shutil.rmtree(images.parent)
    print(scale_table(results))


if __name__ == "__main__":
    main()
