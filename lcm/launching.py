"""How a run meets its machine: processes, precision, trackers, memory."""

from __future__ import annotations

import os
import resource
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from lcm.config import TrainConfig
from lcm.optimizer import check_8bit
from lcm.trackers import check_installed

MODEL_SPLITTING = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM"}
"""Launches that cut a network into parts, by the X of the ACCELERATE_USE_X that `accelerate launch` sets."""


def check_launch(config: TrainConfig) -> None:
    """Raises ValueError where the launcher asks for something else than the run, or for what no run can do."""
    for name, what in MODEL_SPLITTING.items():
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise ValueError(
                f"accelerate was told to use {what}, which splits the U-Net; here every process holds all of it: launch with "
                "accelerate launch --multi_gpu --num_processes N, and turn the other off where accelerate config has it"
            )
    for name in ("mixed_precision", "gradient_accumulation_steps"):
        ours = str(getattr(config, name))
        launched = os.environ.get(f"ACCELERATE_{name.upper()}", ours)
        if launched not in ("no", ours):  # the launcher always states a precision, "no" where it was not asked for one
            raise ValueError(f"accelerate was told {name} {launched}, this run {ours}; pass --{name} {launched}")


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Raises ValueError for a launch that is not what it seems, or a tracker or optimizer that is not installed."""
    check_installed(config.report_to)
    check_launch(config)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=list(config.report_to) or None,
        project_dir=str(Path(config.output_dir) / config.logging_dir) if config.report_to else None,
        step_scheduler_with_optimizer=False,
        # processes wait for each other while trajectories are made or a large checkpoint is written; the default is 10 minutes
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],
    )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and accelerator.num_processes == 1:
        raise ValueError(
            "several processes were launched but each thinks it is alone; on a machine without GPUs launch with "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N"
        )
    if config.use_8bit_adam:
        check_8bit(accelerator.device)
    torch.backends.cuda.matmul.allow_tf32 = config.allow_tf32
    return accelerator


def peak_gib() -> float:
    """The most memory that was in use so far, in GiB: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def peak_memory() -> str:
    """As `peak_gib`, in words."""
    return f"{peak_gib():.2f} GiB {'on the GPU' if torch.cuda.is_available() else 'of this process'}"
