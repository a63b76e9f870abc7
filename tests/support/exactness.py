"""The runs that tests/training/test_exactness.py compares, out of one process that imports once:

    python -m tests.support.exactness FOLDER

Every case is run to its end, as `whole`, and once more from its checkpoint in the middle, as
`resumed`. Of two processes the second then has an output folder of its own, as on another machine.
What every process trained on is noted beside the output folders.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

import lcm.training.launch
import lcm.training.step
import train_lcm_lora
from lcm.config.command_line import parse_config
from lcm.data.batch import SampleBatch
from lcm.training.run import Run
from lcm.training.state import TrainState
from tests.support.ranks import Job, start, wait
from tests.support.runs import words
from tests.support.worlds import build_sd, write_images

SAMPLES, STEPS = 8, 4
PLAYED: dict[str, Any] = {"target": "ema", "simulated_play_warmup_steps": 3}
LEARNS_BESIDE: dict[str, Any] = {"target": "ema", "objective": "scm", "learned_weight": True}
DISTILLED: dict[str, Any] = {
    "objective": "dmd",
    "terms": ["dmd", "adversarial=0.1"],
    "dmd_steps": [1, 2],
    "export_ema_decay": 0.5,
}
MERGED: dict[str, Any] = {
    "target": "ema",
    "objective": "hyper",
    "segments": [2, 1],
    "critic_updates": 1,
    "critic_learning_rate": 5e-3,
}
KINDS = {
    (False, False): DISTILLED,
    (False, True): PLAYED,
    (True, False): MERGED,
    (True, True): LEARNS_BESIDE,
}
"""(with a cache, with buckets) -> what a run is of: its points change as it goes on, tensors learn
beside the adapter, or a second network and heads, one of them from the checkpoint on.
"""


@dataclass(frozen=True)
class Case:
    processes: int
    accumulation: int
    workers: int
    cache: bool
    buckets: bool

    @property
    def name(self) -> str:
        parts = [
            f"processes-{self.processes}",
            f"accumulation-{self.accumulation}",
            f"workers-{self.workers}",
            *(["cache"] if self.cache else []),
            *(["buckets"] if self.buckets else []),
        ]
        return "_".join(parts)


ONE = [
    Case(1, 1 + accumulates, 2 * workers, cache, buckets)
    for accumulates, workers, cache, buckets in product((False, True), repeat=4)
    if (accumulates + workers + cache + buckets) % 2 == 0
]
"""Any three choices meet in one of them."""

TWO = [
    Case(2, *choice)
    for choice in (
        (1, 0, False, False),
        (1, 2, True, True),
        (2, 0, True, False),
        (2, 2, False, True),
        (2, 0, True, True),
    )
]
"""Any two choices meet in one of them."""


def command(folder: Path, case: Case, output: Path) -> list[str]:
    values: dict[str, Any] = {
        "pretrained_teacher_model": folder / "teacher",
        "train_data_dir": folder / "images",
        "output_dir": output,
        "resolution": 16,
        "lora_rank": 2,
        "learning_rate": 1e-2,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 0,
        "lora_target_modules": "to_q",
        "max_train_steps": STEPS,
        "checkpointing_steps": STEPS // 2,
        "logging_steps": 1,
        "validation_steps": 100,
        "validation_prompts": ["a", "b", "c"],
        "validation_num_steps": 1,
        "validation_num_images": 2,
        "validation_teacher_steps": 2,
        "train_batch_size": SAMPLES // case.processes // case.accumulation,
        "gradient_accumulation_steps": case.accumulation,
        "dataloader_num_workers": case.workers,
        "aspect_ratio_buckets": case.buckets,
        "cache_latents": case.cache,
        "latent_cache_dir": folder / f"cache-{case.processes}" if case.cache else None,
        **KINDS[case.cache, case.buckets],
    }
    return words(values)


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]


def train(folder: Path, case: Case, name: str, rank: int) -> Job:
    """One process of a run, with a note of every sample as it is trained on."""
    output = folder / case.name / (name if rank == 0 else f"{name}-elsewhere")
    backward = lcm.training.step.backward

    def noted(run: Run, state: TrainState, batch: SampleBatch, *others: Any) -> tuple[Any, Any]:
        with (folder / case.name / f"{name}-{rank}.jsonl").open("a") as file:
            for i, key in enumerate(batch.keys):
                drawn = [
                    digest(batch.noise[i]),
                    digest(batch.posterior_noise[i]),
                    batch.uniform_time[i].item(),
                ]
                file.write(json.dumps([state.step + 1, key, batch.prompts[i], *drawn]) + "\n")
        return backward(run, state, batch, *others)

    def job() -> int:
        lcm.training.step.backward = noted
        return train_lcm_lora.main(command(folder, case, output))

    return job


def runs(folder: Path, case: Case) -> Iterator[int | None]:
    """The exit status of either run."""
    top = folder / case.name
    top.mkdir()
    yield wait(
        start([train(folder, case, "whole", rank) for rank in range(case.processes)], top / "log")
    )
    (top / "resumed").mkdir()
    shutil.copytree(
        top / "whole" / f"checkpoint-{STEPS // 2}", top / "resumed" / f"checkpoint-{STEPS // 2}"
    )
    # with lines beyond the checkpoint, as a kill leaves them
    shutil.copy(top / "whole" / "metrics.jsonl", top / "resumed")
    shutil.copy(top / "whole" / "config.yaml", top / "resumed")
    yield wait(
        start([train(folder, case, "resumed", rank) for rank in range(case.processes)], top / "log")
    )


def move(folder: Path, case: Case) -> int | None:
    """One process goes on with what two began."""
    top = folder / case.name
    samples = Case(1, case.accumulation, case.workers, case.cache, case.buckets)
    shutil.copytree(
        top / "whole" / f"checkpoint-{STEPS // 2}", top / "moved" / f"checkpoint-{STEPS // 2}"
    )
    for name in ("metrics.jsonl", "config.yaml"):
        shutil.copy(top / "whole" / name, top / "moved")
    return wait(
        start([lambda: train_lcm_lora.main(command(folder, samples, top / "moved"))], top / "log")
    )


def wait_in_vain(folder: Path, rank: int) -> Job:
    """Process 0 waits for a second one that never comes, and notes what that ends with."""

    def job() -> int:
        lcm.training.launch.WAITING = timedelta(seconds=1)
        config = parse_config(command(folder, TWO[0], folder / "none"))
        machine = lcm.training.launch.make_machine(config.loop, config.output, config.optimizer)
        note = folder / "waited"
        if rank == 1:
            while not note.exists():
                time.sleep(0.05)
            return 0
        try:
            machine.accelerator.wait_for_everyone()
        except RuntimeError as error:
            note.write_text(str(error))
            return 0
        return 1

    return job


def main() -> int:
    folder = Path(sys.argv[1])
    write_images(folder / "images", 4, size=(24, 16))
    write_images(folder / "images" / "tall", 3, size=(33, 60))
    wait(start([lambda: build_sd().save_pretrained(folder / "teacher") or 0], folder / "log"))
    statuses = [wait(start([wait_in_vain(folder, rank) for rank in range(2)], folder / "log"))]
    for case in (*ONE, *TWO):
        statuses += runs(folder, case)
    statuses.append(move(folder, TWO[0]))
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main())
