"""What is known of a run before it begins."""

from __future__ import annotations

from lcm.config import TrainConfig
from lcm.families import Family
from lcm.objectives import OBJECTIVES
from lcm.student import Student


def summarize(config: TrainConfig, family: Family, student: Student, num_records: int, samples_per_step: int) -> str:
    """What is about to be trained, in one line."""
    trained = sum(p.numel() for p in student.parameters)
    frozen = sum(p.numel() for p in family.unet.parameters() if not p.requires_grad)
    epochs = config.max_train_steps * samples_per_step / num_records
    guidance = " to ".join(f"{g:g}" for g in dict.fromkeys(config.guidance_range))
    experimental = " (experimental)" if OBJECTIVES[config.objective].experimental else ""
    return (
        f"{family.name} teacher, {family.schedule.prediction_type}; U-Net {frozen / 1e6:.1f} M parameters frozen in "
        f"{str(family.unet.dtype).removeprefix('torch.')}, {trained / 1e6:.2f} M trained (with gradients and AdamW "
        f"{trained * 16 / 2**20:.0f} MiB); {num_records} samples, {samples_per_step} an update, "
        f"{config.max_train_steps} updates = {epochs:.1f} epochs; {config.objective}{experimental}, guidance_scale "
        f"{guidance}"
    )
