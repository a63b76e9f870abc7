"""Training runs of a few steps: their command lines, and the ways to start them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import train_lcm_lora
from lcm.config.command_line import parse_config
from lcm.config.run import TrainConfig
from lcm.data.batch import SampleBatch
from lcm.methods.context import LatentBatch
from lcm.training.encode import encode
from lcm.training.loop import Trainer
from lcm.training.setup import build_run
from lcm.training.step import StepOutput, train_step
from tests.support import ROOT
from tests.support.launches import forget_launch

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "CUDA_VISIBLE_DEVICES": "",
}
ENVIRONMENT.pop("ACCELERATE_USE_CPU", None)  # no user needs it
PIPES: dict[str, Any] = {
    "env": ENVIRONMENT,
    "cwd": ROOT,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "text": True,
}


def fork(
    processes: int, teacher: Path, images: Any, output: Path, **changes: Any
) -> subprocess.CompletedProcess[str]:
    """A run of several processes, in a fraction of the launcher's time: they come out of one
    process that has imported everything.
    """
    log = output.with_name(f"{output.name}.log")
    command = [
        sys.executable,
        "-m",
        "tests.support.ranks",
        str(processes),
        str(log),
        *flags(teacher, images, output, **changes),
    ]
    return subprocess.run(command, **PIPES, timeout=300, check=False)


def trainer_of(line: list[str]) -> Trainer:
    """A run of this command line, ready to train."""
    return trainer_for(parse_config(line))


def trainer_for(config: TrainConfig) -> Trainer:
    """A run of this configuration, ready to train."""
    return Trainer(*build_run(config))


def update(trainer: Trainer, batches: Iterator[SampleBatch]) -> StepOutput:
    """One update of the trainer's run."""
    return train_step(trainer.run, trainer.state, batches)


def encoded(trainer: Trainer, batch: SampleBatch) -> LatentBatch:
    """The batch as the trainer's step encodes it."""
    return encode(trainer.run.families[batch.teacher], batch, trainer.run.machine.device)


def trained(trainer: Trainer, last: int) -> dict[str, Tensor]:
    """All that the updates up to number `last` change."""
    batches = trainer.run.inputs.batches(range(trainer.state.step, last))
    while trainer.state.step < last:
        update(trainer, batches)
    return {name: tensor.detach().clone() for name, tensor in trainer.record().tensors.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) for key, value in one.items()
    )


def words(values: dict[str, Any]) -> list[str]:
    """A command line; None leaves a flag out."""
    line: list[str] = []
    for name, value in values.items():
        if value is not None:
            line += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return line


FROM_TRAJECTORIES: dict[str, Any] = {
    "train_data_dir": None,
    "objective": "endpoint",
    "num_ddim_timesteps": 4,
    "validation_num_steps": [2],
}
"""The options of a run on trajectories of prompts, which needs a prompts_file beside them."""


def flags(teacher: Path, images: Path, output: Path, **changes: Any) -> list[str]:
    """The command line of four small steps, with next to no drawing, which would take two thirds of
    their time; None leaves a flag out.
    """
    values: dict[str, Any] = {
        "pretrained_teacher_model": teacher,
        "train_data_dir": images,
        "output_dir": output,
        "resolution": 16,
        "train_batch_size": 2,
        "max_train_steps": 4,
        "lora_rank": 2,
        "learning_rate": 1e-2,
        "lr_warmup_steps": 0,
        "checkpointing_steps": 2,
        "validation_steps": 2,
        "validation_num_images": 2,
        "validation_teacher_steps": 2,
        "validation_prompts": ["a red star"],
        "validation_num_steps": [1],
        "logging_steps": 1,
        **changes,
    }
    return words(values)


def run(*args: Any, **changes: Any) -> int:
    """The status of a run of its own, as if launched."""
    forget_launch()
    return train_lcm_lora.main(flags(*args, **changes))


def expect_refusal(
    capsys: pytest.CaptureFixture[str], arguments: list[str], *messages: str
) -> None:
    """Exit status 2 and one line that says `messages`."""
    assert train_lcm_lora.main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    for message in messages:
        assert message in line
