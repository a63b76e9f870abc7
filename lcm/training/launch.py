"""How a run meets its machine: processes, precision, trackers, memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import Tensor, nn
from torch.distributed import DistStoreError, is_initialized
from torch.distributed.distributed_c10d import _set_pg_timeout

from lcm.config.output_sections import OutputConfig
from lcm.config.sections import LoopConfig, OptimizerConfig
from lcm.outputs.trackers import check_installed
from lcm.system.device import CPU, found
from lcm.system.processes import ALONE, Team
from lcm.training.optimizer import check_8bit

logger = logging.getLogger(__name__)

MODEL_SPLITTING = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM"}
"""Launches that cut a network into parts, by the X of the ACCELERATE_USE_X that `accelerate launch`
sets.
"""

RENDEZVOUS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells each of several processes besides their number."""

SEVERAL = "accelerate launch --multi_gpu --num_processes N, with GPUs or without"
"""How several processes are launched."""

MEETING, WAITING = timedelta(minutes=10), timedelta(hours=12)
"""How long processes wait for each other: at first, and then, while one makes trajectories or
writes a large checkpoint. The default is 10 minutes with NCCL and 30 with gloo.
"""


def num_launched() -> int:
    """How many processes the launcher speaks of."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_launch(loop: LoopConfig) -> None:
    """Raises ValueError where the launcher asks for something else than the run, or for what no run
    can do.
    """
    if num_launched() > 1 and (missing := [name for name in RENDEZVOUS if name not in os.environ]):
        raise ValueError(
            f"WORLD_SIZE is {num_launched()}, but {', '.join(missing)} not set; launch with "
            f"{SEVERAL}"
        )
    for name, what in MODEL_SPLITTING.items():
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise ValueError(
                f"accelerate was told to use {what}, which splits the U-Net; here every process "
                "holds all of it: launch with accelerate launch --multi_gpu --num_processes N, and "
                "turn the other off where accelerate config has it"
            )
    for name in ("mixed_precision", "gradient_accumulation_steps"):
        ours = str(getattr(loop, name))
        launched = os.environ.get(f"ACCELERATE_{name.upper()}", ours)
        # the launcher always states a precision, "no" where it was not asked for one
        if launched not in ("no", ours):
            raise ValueError(
                f"accelerate was told {name} {launched}, this run {ours}; pass --{name} {launched}"
            )


def meet(loop: LoopConfig, output: OutputConfig) -> Accelerator:
    """The accelerator, once all processes have come. Raises ValueError when they do not."""
    try:
        return Accelerator(
            # accelerate would leave processes without a GPU alone
            cpu=num_launched() > 1 and found() == CPU,
            mixed_precision=loop.mixed_precision,
            gradient_accumulation_steps=loop.gradient_accumulation_steps,
            log_with=list(output.report_to) or None,
            project_dir=str(output.folder / output.logging_dir) if output.report_to else None,
            step_scheduler_with_optimizer=False,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=MEETING)],
        )
    except DistStoreError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        minutes = MEETING.total_seconds() / 60
        raise ValueError(
            f"the {num_launched()} processes did not meet at {where} in {minutes:.0f} minutes; "
            "launch the same command on every machine, and look at what the others say"
        ) from error


def check_alone() -> None:
    """Raises ValueError where a process that is alone was meant to be one of several."""
    if num_launched() > 1:
        raise ValueError(
            f"{num_launched()} processes were launched but each thinks it is alone; launch with "
            f"{SEVERAL}"
        )
    # without --multi_gpu it starts one process, but leaves to it where several would meet
    if {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ValueError(
            "accelerate launch was told of several processes or machines and started a single "
            f"one; launch with {SEVERAL}. If one is what you want: --num_processes 1, and unset "
            "MASTER_ADDR"
        )


def processes(accelerator: Accelerator) -> str:
    """How many there are, and on what."""
    number = accelerator.num_processes
    machines = num_launched() // int(os.environ.get("LOCAL_WORLD_SIZE", num_launched()))
    where = f" on {machines} machines" if machines > 1 else ""
    return f"{number} process{'es' if number > 1 else ''}{where}, {accelerator.device.type}"


def make_accelerator(
    loop: LoopConfig, output: OutputConfig, optimizer: OptimizerConfig
) -> Accelerator:
    """The processes of this launch, met.

    Raises ValueError for a launch that is not what it seems, or a tracker or optimizer that is not
    installed.
    """
    check_installed(output.report_to)
    check_launch(loop)
    accelerator = meet(loop, output)
    if is_initialized():
        accelerator.wait_for_everyone()  # NCCL has not looked for the others yet
        _set_pg_timeout(WAITING)
    else:
        check_alone()
    logger.info("%s", processes(accelerator))
    if optimizer.use_8bit_adam:
        check_8bit(accelerator.device)
    torch.backends.cuda.matmul.allow_tf32 = loop.allow_tf32
    return accelerator


@dataclass(frozen=True)
class Machine:
    """The processes that a run is made by, and the device of this one."""

    accelerator: Accelerator
    team: Team

    @property
    def device(self) -> torch.device:
        """The device that this process computes on."""
        return self.accelerator.device

    @property
    def process(self) -> tuple[int, int]:
        """The number of this process, and how many there are."""
        return self.accelerator.process_index, self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.accelerator.is_main_process

    def total(self, values: Tensor) -> Tensor:
        """The sum of the `values` of all processes of the team, which ask for it together."""
        summed: Tensor = self.accelerator.reduce(values) if self.team.size > 1 else values
        return summed

    def share_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gives each of these the mean of its gradients over the processes of the team, as those of
        a prepared network get it by themselves.
        """
        if self.team.size > 1:
            for parameter in parameters:
                parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")

    def alone(self) -> Machine:
        """This process without the others: nothing that it does waits for them."""
        return replace(self, team=ALONE)


def make_machine(loop: LoopConfig, output: OutputConfig, optimizer: OptimizerConfig) -> Machine:
    """The machine of this launch. Raises ValueError as `make_accelerator` does."""
    accelerator = make_accelerator(loop, output, optimizer)
    rank, size = accelerator.process_index, accelerator.num_processes
    return Machine(accelerator, Team(rank, size, gather_object, accelerator.wait_for_everyone))
