"""What is known of a run before it begins: what is trained, how much is to come, what it takes on
disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from lcm.config.run import TrainConfig
from lcm.methods import OBJECTIVES
from lcm.models.families import Family
from lcm.outputs.checkpoint import RunState, list_checkpoints
from lcm.outputs.saving import bytes_of_checkpoint, bytes_of_trained
from lcm.system.disk_space import Need, readable
from lcm.training.student import Student

PAGES = 4 * 2**20
"""Bytes for all that is for reading: report, card, settings, lines of metrics."""


def summarize(
    config: TrainConfig, family: Family, student: Student, num_records: int, samples_per_step: int
) -> str:
    """What is about to be trained, in one line."""
    trained = sum(p.numel() for p in student.parameters)
    frozen = sum(p.numel() for p in family.unet.parameters() if not p.requires_grad)
    epochs = config.max_train_steps * samples_per_step / num_records
    guidance = " to ".join(f"{g:g}" for g in dict.fromkeys(config.guidance_range))
    each, optimizer = (
        (10, "8-bit AdamW") if config.use_8bit_adam else (16, "AdamW")
    )  # bytes: weight, gradient, two moments
    teachers = (
        f"mixture of {1 + len(config.extra_teachers)} teachers"
        if config.extra_teachers
        else "teacher"
    )
    experimental = " (experimental)" if OBJECTIVES[config.objective].experimental else ""
    return (
        f"{family.name} {teachers}, {family.schedule.prediction_type}; U-Net {frozen / 1e6:.1f} M "
        f"parameters frozen in {str(family.unet.dtype).removeprefix('torch.')}, "
        f"{trained / 1e6:.2f} M trained (with gradients and {optimizer} "
        f"{readable(trained * each)}); {num_records} samples, {samples_per_step} an update, "
        f"{config.max_train_steps} updates = {epochs:.1f} epochs; "
        f"{config.objective}{experimental}, guidance_scale {guidance}"
    )


def duration(seconds: float) -> str:
    """As people say it: 0.4 s, 12 s, 0:03:20."""
    return (
        f"{seconds:.1f} s"
        if seconds < 10
        else f"{seconds:.0f} s"
        if seconds < 60
        else str(timedelta(seconds=round(seconds)))
    )


@dataclass(frozen=True)
class Plan:
    """What a run is still going to do: updates, checkpoints, grids with that of the finished
    adapter. Of the checkpoints, `together` is by how many there are more on disk at once than now.
    """

    updates: int
    checkpoints: int
    grids: int
    together: int


def plan_of(config: TrainConfig, step: int) -> Plan:
    """Of a run that has made `step` updates."""
    last, every, drawing = (
        config.max_train_steps,
        config.checkpointing_steps,
        config.validation_steps,
    )
    checkpoints = last // every - step // every + (last % every > 0) if step < last else 0
    grids = max(0, (last - 1) // drawing - step // drawing) + (step == 0) + 1
    together, keep = checkpoints, config.checkpoints_total_limit
    if keep is not None and checkpoints:
        # the new one is complete before the oldest goes
        together = min(
            checkpoints, max(1, keep + 1 - len(list_checkpoints(Path(config.output_dir))))
        )
    return Plan(last - step, checkpoints, grids, together)


def output_need(
    config: TrainConfig, plan: Plan, checkpoint: int, given_away: int, grid: int
) -> Need:
    """Of the output folder, from the bytes of a checkpoint, of what is given away in the end and of
    a grid.
    """
    fixes = ["choose another --output_dir"]
    if plan.together > 3:
        fixes = [
            (
                "pass --checkpoints_total_limit 2 or --checkpointing_steps "
                f"{4 * config.checkpointing_steps}"
            ),
            *fixes,
        ]
    nbytes = plan.together * checkpoint + given_away + plan.grids * grid + PAGES
    what = f"{plan.together} checkpoints, {plan.grids} grids and the result"
    return Need(Path(config.output_dir), nbytes, what, ", or ".join(fixes))


def guess_output_need(config: TrainConfig, plan: Plan, state: RunState, prompts: int) -> Need:
    """As `output_need`, when nothing was measured: from the state that a checkpoint would hold,
    moments of AdamW or not, and the largest pictures that there are.
    """
    trained = bytes_of_trained(state)
    moments = 0 if any(name.startswith("optimizer.") for name in state.tensors) else 2 * trained
    pictures = prompts * len(config.validation_num_steps)
    return output_need(
        config,
        plan,
        bytes_of_checkpoint(state) + moments,
        trained,
        pictures * 3 * int(config.resolution or 0) ** 2,
    )
