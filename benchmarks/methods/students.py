"""Where the adapter of a job comes from: trained by the documented command, or noise, or none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file, save_file

import lcm
from benchmarks.methods.plan import Job, job_name
from examples.shapes.evaluate import load_pipe
from lcm.adapter.files import read_header
from lcm.adapter.names import WEIGHTS_NAME

LAUNCH = (
    "accelerate.commands.accelerate_cli launch --num_processes 1 --num_machines 1 --cpu "
    "--mixed_precision no --dynamo_backend no"
)
LAUNCHER_TRACEBACK = 'Traceback (most recent call last):\n  File "<frozen runpy>"'
"""What accelerate adds below the error of the script."""


@dataclass(frozen=True)
class Play:
    """How a student is drawn with, as its recipe says."""

    objective: str | None
    scheduler: str
    eta: float
    guidance_scale: float
    num_inference_steps: tuple[int, ...]


def words(flags: dict[str, Any]) -> list[str]:
    """Flags as words of a command line; a list becomes several words."""
    return [
        word
        for name, value in flags.items()
        for word in (f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value]))
    ]


def train(job: Job, chosen: dict[str, Any], output_dir: Path, log: Path, owner: int) -> None:
    """Trains with the `chosen` flags, or goes on training, in a process of its own that shares the
    lock `owner`; its output goes to `log`.

    Raises RuntimeError with the end of the log on failure.
    """
    flags = {
        **chosen,
        "output_dir": output_dir,
        "seed": job.seed,
        "resume_from_checkpoint": "latest",
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        start = file.tell()
        done = subprocess.run(
            [sys.executable, "-m", *LAUNCH.split(), "train_lcm_lora.py", *words(flags)],
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=(owner,),
            check=False,
        )
    if done.returncode:
        text = log.read_bytes()[start:].decode(errors="replace").split(LAUNCHER_TRACEBACK)[0]
        tail = "\n".join(text.splitlines()[-15:])
        raise RuntimeError(
            f"training ended with status {done.returncode}; the end of {log}:\n{tail}"
        )


def is_finished(folder: Path) -> bool:
    """Whether a run has published its adapter; the card comes last."""
    return (folder / "README.md").exists()


def is_adapter(folder: Path) -> bool:
    """Whether the folder can be attached: of a finished run, or of a random adapter."""
    return (folder / WEIGHTS_NAME).exists()


def randomise(source: Path, target: Path, seed: int) -> None:
    """Writes `source` with every matrix replaced by Gaussian noise of the same Frobenius norm;
    alphas and header stay.
    """
    generator = torch.Generator().manual_seed(seed)
    state = load_file(source)
    for name in sorted(name for name in state if name.endswith(".weight")):
        value = state[name]
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        state[name] = (noise * (value.double().norm() / noise.norm())).to(value.dtype)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, target, metadata=read_header(source))


def prepare_adapter(
    job: Job, data: dict[str, Path], runs: Path, log: Path, owner: int
) -> Path | None:
    """The folder of the job's adapter, made if need be; None for the bare model.

    Raises FileNotFoundError when the run that it imitates or goes on from is not finished.
    """
    folder = runs / job.name
    if job.run.student == "base":
        return None
    if job.run.student == "random":
        model = finished(runs / job_name(str(job.run.like), job.seed), "it imitates")
        randomise(model / WEIGHTS_NAME, folder / WEIGHTS_NAME, job.seed)
    elif not is_finished(folder):
        first = {}
        if job.run.after is not None:
            model = finished(runs / job_name(job.run.after, job.seed), "it goes on from")
            first = {"init_adapter": model}
        print(f"{job.name}: training, which writes to {log}", flush=True)
        train(job, {**job.run.flags_on(data), **first}, folder, log, owner)
    return folder


def finished(model: Path, why: str) -> Path:
    """The folder of another run. Raises FileNotFoundError when it is not finished."""
    if not is_finished(model):
        raise FileNotFoundError(f"{why} {model.name}, which is not finished; run that first")
    return model


def load_student(job: Job, adapter: Path | None) -> tuple[Any, Play]:
    """A stock pipeline with the job's adapter and the scheduler of its recipe; without an adapter,
    the scheduler of the plan.
    """
    pipe = load_pipe(Path(job.run.flags["pretrained_teacher_model"]))
    if adapter is None:
        pipe.scheduler = getattr(diffusers, job.run.scheduler).from_config(pipe.scheduler.config)
        return pipe, Play(None, job.run.scheduler, 0.0, 1.0, (1, 2, 4, 8))
    recipe = lcm.attach(pipe, adapter)
    return pipe, Play(
        objective=recipe.objective,
        scheduler=recipe.scheduler,
        eta=recipe.eta,
        guidance_scale=recipe.guidance_scale,
        num_inference_steps=tuple(recipe.num_inference_steps),
    )
