"""Kills a small run at random moments, repeats its command until it ends, and compares it with a run that nobody disturbed.

    python -m tests.soak --kills 30 --processes 2 --seed 0

A kill is SIGKILL for all processes at once: while trajectories are made, in training, saving, drawing or publishing. The runs are
forked from a process that has imported everything and computed nothing, so that their time is not that of imports; several
find each other by the variables that torchrun sets. What does not agree is printed, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from safetensors import safe_open

import lcm.trainer
import train_lcm_lora
from tests.worlds import build_sd

assert lcm.trainer  # what a run imports is here before the first fork

LIMIT_SECONDS = 300
SAMPLES = 8


def fork(job: Callable[[], int], log: Path, **environment: str) -> int:
    """Runs `job` in a child process that writes to `log`; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ.update(environment)
        with log.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = job()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def attempt(argv: list[str], processes: int, log: Path, seconds: float | None) -> int | None:
    """Runs the command; the worst exit status of its processes, None when they were killed after `seconds`."""
    port, ranks = str(free_port()), []
    for rank in map(str, range(processes)):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks.append(fork(lambda: train_lcm_lora.main(argv), log, **({**group, **address} if processes > 1 else {})))
    deadline = time.monotonic() + (LIMIT_SECONDS if seconds is None else seconds)
    worst, alive = 0, set(ranks)
    while alive and time.monotonic() < deadline:
        for child in sorted(alive):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                alive.remove(child)
                worst = max(worst, abs(os.waitstatus_to_exitcode(status)))
        time.sleep(0.002)
    for child in alive:
        os.kill(child, signal.SIGKILL)
    for child in alive:
        os.waitpid(child, 0)
    return None if alive else worst


def write_world(folder: Path) -> int:
    build_sd().save_pretrained(folder / "teacher")
    (folder / "prompts").write_text("a red star\na blue ring\n")
    return 0


def command(folder: Path, output: Path, processes: int) -> list[str]:
    """Two shards of trajectories, eight steps, four checkpoints, two grids, one export."""
    values: dict[str, Any] = {
        "pretrained_teacher_model": folder / "teacher",
        "prompts_file": folder / "prompts",
        "trajectories_per_prompt": 35,
        "output_dir": output,
        "num_ddim_timesteps": 5,
        "target": "ema",
        "lora_rank": 2,
        "learning_rate": 1e-2,
        "lr_scheduler": "cosine",
        "train_batch_size": SAMPLES // processes,
        "max_train_steps": 8,
        "checkpointing_steps": 2,
        "checkpoints_total_limit": 2,
        "validation_steps": 4,
        "validation_num_steps": 1,
        "logging_steps": 1,
    }
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def tensors(path: Path) -> Any:
    """What a safetensors file holds, in an order of its own: its header may have another."""
    with safe_open(path, framework="pt") as file:
        values = {name: file.get_tensor(name).contiguous().flatten().view(torch.uint8).tolist() for name in sorted(file.keys())}
        return sorted((file.metadata() or {}).items()), values


def content(path: Path) -> Any:
    """What of a file must not depend on kills."""
    if path.suffix == ".safetensors":
        return tensors(path)
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        of_machine = ("seconds_per_step", "samples_per_second", "peak_memory_gib")
        return [{name: value for name, value in line.items() if name not in of_machine} for line in lines]
    if path.name == "report.html":
        return None  # it shows times and memory
    if path.name == "config.yaml":
        return [line for line in path.read_text().splitlines() if not line.startswith("output_dir:")]
    if path.name == "state.json":
        facts = json.loads(path.read_text())
        facts["config"].pop("output_dir")
        return facts
    return path.read_bytes()


def differences(output: Path, whole: Path) -> list[str]:
    """Files of a run that are not those of the undisturbed one."""
    ours, theirs = ({str(p.relative_to(top)) for p in top.rglob("*") if p.is_file()} for top in (output, whole))
    unlike = [name for name in sorted(ours & theirs) if content(output / name) != content(whole / name)]
    return [*(f"only in one: {name}" for name in sorted(ours ^ theirs)), *(f"differs: {name}" for name in unlike)]


def soak(folder: Path, kills: int, processes: int, seed: int) -> list[str]:
    """Kills so many times, in as many runs as that takes; returns what was wrong."""
    rng, log, wrong = random.Random(seed), folder / "log", []
    os.waitpid(fork(lambda: write_world(folder), log), 0)
    start = time.monotonic()
    if attempt(command(folder, folder / "whole", processes), processes, log, None) != 0:
        return ["the undisturbed run failed"]
    length = time.monotonic() - start
    print(f"seed {seed}, {processes} processes, an undisturbed run takes {length:.1f} s", flush=True)
    killed = runs = 0
    while killed < kills and not wrong:
        output, status = folder / f"killed-{runs}", None
        while status is None:
            seconds = rng.random() * length if killed < kills else None
            status = attempt(command(folder, output, processes), processes, log, seconds)
            killed += status is None
            reached = sorted(int(path.name.split("-")[1]) for path in output.glob("checkpoint-*"))
            what = f"killed after {seconds:.2f} s" if status is None else f"ended with {status}"
            print(f"run {runs}, kill {killed}: {what}, checkpoints {reached}", flush=True)
        wrong += [f"run {runs} ended with status {status}"] if status else differences(output, folder / "whole")
        runs += 1
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=None, help="of the moments; random, and printed, unless given")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    wrong = soak(folder, args.kills, args.processes, seed)
    print("\n".join(wrong) or f"{args.kills} kills changed nothing")
    if wrong:
        print(f"the folders and the log are in {folder}; --seed {seed} repeats the moments")
        print((folder / "log").read_text()[-2000:])
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
