"""Kills small runs at random moments, repeats their command until it ends, and compares them with
runs that nobody disturbed.

    python -m tests.soak --kills 30 --processes 2 --seed 0

A kill is SIGKILL for all processes at once. Its moment is drawn in two steps: one of the PHASES,
then a moment in it, so that what takes milliseconds is hit as often as what takes seconds. Runs on
prompts, with trajectories to make, and runs on pictures in buckets, with a cache to build, take
turns. What does not agree is printed, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

import train_lcm_lora
from lcm.data.precomputed.rows import stores
from tests.support.outputs import differences
from tests.support.ranks import start, wait
from tests.support.worlds import build_sd, write_images

SAMPLES = 8
PHASES = {
    "starting": "",  # whatever is none of the others
    "making trajectories": "lcm.training.inputs.draw_trajectories",
    "building the cache": "lcm.training.inputs.encode_once",
    "training": "lcm.training.loop.train_step",
    "saving a checkpoint": "lcm.outputs.saving.save_checkpoint",
    "exporting": "lcm.training.publisher.Publisher.export",
    "drawing": "lcm.training.publisher.Publisher.validate",
    "publishing": "lcm.training.publisher.Publisher.publish",
}
NAMES = list(PHASES)
now, entered, spent = RawArray("i", 1), RawArray("i", len(PHASES)), RawArray("d", len(PHASES))
"""What the main process does, how often it began which phase, and the seconds that it spent there;
also when it is dead.
"""


def watch() -> None:
    """Lets this process, and those that it forks, tell what they are doing."""
    for number, target in enumerate(PHASES.values()):
        if target:
            path, _, name = target.rpartition(".")
            module, _, last = path.rpartition(".")
            owner = (
                getattr(importlib.import_module(module), last)
                if last[0].isupper()
                else importlib.import_module(path)
            )
            setattr(owner, name, telling(getattr(owner, name), number))


def telling(function: Callable[..., Any], number: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def told(*args: Any, **options: Any) -> Any:
        if os.environ.get("RANK", "0") != "0":
            return function(*args, **options)
        before, began = now[0], time.monotonic()
        now[0] = number
        entered[number] += 1
        try:
            return function(*args, **options)
        finally:
            now[0] = before
            spent[number] += time.monotonic() - began

    return told


def forget() -> None:
    """Before a run."""
    now[0] = 0
    for number in range(len(PHASES)):
        entered[number], spent[number] = int(number == 0), 0.0


class Moment:
    """Comes once: `seconds` after a phase, by its number, has begun for the `count`th time."""

    def __init__(self, phase: int, count: int, seconds: float) -> None:
        self.phase, self.count, self.seconds = phase, count, seconds
        self.began: float | None = None

    def has_come(self) -> bool:
        if self.began is None and entered[self.phase] >= self.count:
            self.began = time.monotonic()
        return self.began is not None and time.monotonic() - self.began >= self.seconds


Lengths = dict[int, tuple[int, float]]
"""Phase -> how often an undisturbed run comes to it, and how many seconds it takes each time."""


def draw_moment(rng: random.Random, lengths: Lengths) -> Moment:
    phase = rng.choice(sorted(lengths))
    times, seconds = lengths[phase]
    return Moment(phase, rng.randint(1, times), rng.random() * seconds)


def write_world(folder: Path) -> int:
    build_sd().save_pretrained(folder / "teacher")
    (folder / "prompts.txt").write_text("a red star\na blue ring\n")
    write_images(folder / "images", 6, size=(48, 32))
    write_images(folder / "images" / "tall", 5, size=(33, 60))
    return 0


def command(folder: Path, kind: str, output: Path, processes: int) -> list[str]:
    """Eight steps, four checkpoints, two grids, one export; two shards of trajectories, or a cache
    of eleven pictures.
    """
    values: dict[str, Any] = {
        "pretrained_teacher_model": folder / "teacher",
        "output_dir": output,
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
        "validation_num_images": 2,
        "validation_teacher_steps": 2,
        "logging_steps": 1,
    }
    data: dict[str, dict[str, Any]] = {
        "prompts": {
            "prompts_file": folder / "prompts.txt",
            "trajectories_per_prompt": 35,
            "num_ddim_timesteps": 5,
        },
        "pictures": {
            **{
                "train_data_dir": folder / "images",
                "resolution": 32,
                "aspect_ratio_buckets": True,
                "dataloader_num_workers": 1,
            },
            **{
                "cache_latents": True,
                "cache_variants": 2,
                "latent_cache_dir": output.with_name(f"{output.name}-cache"),
            },
        },
    }
    return [
        word
        for name, value in {**values, **data[kind]}.items()
        for word in (f"--{name}", str(value))
    ]


def damage(cache: Path) -> list[str]:
    """Files of a cache with rows that are not what was written."""
    return [f"damaged: {path}" for _, store in stores(cache) for path in store.damaged(quiet=True)]


class Soak:
    """Runs in `folder`, and what was seen of them."""

    def __init__(self, folder: Path, processes: int) -> None:
        self.folder, self.processes, self.log = folder, processes, folder / "log"
        self.killed: Counter[str] = Counter()

    def attempt(
        self, kind: str, output: Path, enough: Callable[[], bool] = lambda: False
    ) -> int | None:
        argv = command(self.folder, kind, output, self.processes)
        forget()
        return wait(start([lambda: train_lcm_lora.main(argv)] * self.processes, self.log), enough)

    def measure(self, kind: str) -> Lengths:
        """Runs without a kill. Raises ChildProcessError when that fails."""
        began = time.monotonic()
        if self.attempt(kind, self.folder / kind) != 0:
            raise ChildProcessError(
                f"the undisturbed run on {kind} failed: {self.log.read_text()[-2000:]}"
            )
        length = time.monotonic() - began
        print(
            f"{self.processes} processes on {kind}: an undisturbed run takes {length:.1f} s",
            flush=True,
        )
        return {0: (1, length)} | {
            n: (entered[n], spent[n] / entered[n]) for n in range(1, len(PHASES)) if entered[n]
        }

    def disturb(self, kind: str, name: str, moments: Callable[[], Moment | None]) -> list[str]:
        """Kills a run at the `moments`, until these are None, and repeats it until it ends; returns
        what is wrong with it then.
        """
        output, status = self.folder / name, None
        while status is None:
            moment = moments()
            status = self.attempt(kind, output, moment.has_come if moment else lambda: False)
            if status is None:
                self.killed[NAMES[now[0]]] += 1
            reached = sorted(int(path.name.split("-")[1]) for path in output.glob("checkpoint-*"))
            what = f"killed while {NAMES[now[0]]}" if status is None else f"ended with {status}"
            print(f"{name}, kill {self.killed.total()}: {what}, checkpoints {reached}", flush=True)
        if status:
            return [f"{name} ended with status {status}"]
        return [
            *differences(output, self.folder / kind),
            *damage(output.with_name(f"{name}-cache")),
        ]


def soak(folder: Path, kills: int, processes: int, seed: int) -> list[str]:
    """Kills so many times, in as many runs as that takes; returns what was wrong."""
    rng, it, wrong, runs = random.Random(seed), Soak(folder, processes), [], 0
    wait(start([lambda: write_world(folder)], it.log))
    watch()
    print(f"seed {seed}", flush=True)
    lengths = {kind: it.measure(kind) for kind in ("prompts", "pictures")}

    def moment() -> Moment | None:
        return draw_moment(rng, lengths[kind]) if it.killed.total() < kills else None

    while it.killed.total() < kills and not wrong:
        kind = list(lengths)[runs % len(lengths)]
        wrong = it.disturb(kind, f"{kind}-{runs}", moment)
        runs += 1
    print(
        "killed while " + ", ".join(f"{name}: {count}" for name, count in it.killed.most_common())
    )
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--seed", type=int, default=None, help="of the moments; random, and printed, unless given"
    )
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
