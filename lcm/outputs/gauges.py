"""What of a student's pictures differs from the teacher's, in numbers: a function each, and a line
in the table.

All are taken from latents at unit scale, so that nothing is decoded for them: [N, S, C, h, w] of N
prompts in S seeds each, the student's and the teacher's of the same prompts and seeds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lcm.system.registry import Table

Values = dict[str, Any]
"""The numbers of a grid as a line of metrics.jsonl has them, without its step."""

MEAN, STD, TEACHER = "latent_mean", "latent_std", "teacher"
PROMPTS, SEEDS = "gauged_prompts", "gauged_seeds"
"""Of how many prompts the numbers of a line are, in how many seeds each."""


@dataclass(frozen=True)
class Gauge:
    """A number that is `neutral` where the student's pictures are as the teacher's.

    `measure` is asked with (student, teacher), both [N, S, C, h, w] float32 on the CPU, and returns
    a number, not finite where there is none. Outside of `low` to `high` something is wrong: that it
    `is_low` or `is_high`, and what to do.
    """

    title: str
    measure: Callable[[Tensor, Tensor], float]
    neutral: float
    low: float
    high: float
    is_low: str
    is_high: str

    def concern(self, value: float) -> str | None:
        """What is wrong with a value, and what to do; None where nothing is."""
        if self.low <= value <= self.high:
            return None
        return self.is_low if value < self.low else self.is_high


# --- of one side ----------------------------------------------------------------------------------


def channel_means(latents: Tensor) -> Tensor:
    """[N, S, C, h, w] -> [C], over all pictures and places."""
    return latents.double().mean(dim=(0, 1, 3, 4))


def channel_stds(latents: Tensor) -> Tensor:
    """[N, S, C, h, w] -> [C]: the root of the mean variance within a picture. What pictures differ
    in from each other does not count.
    """
    return latents.double().var(dim=(3, 4), unbiased=False).mean(dim=(0, 1)).sqrt()


def within_prompt_variance(latents: Tensor) -> float:
    """[N, S, C, h, w] -> the unbiased variance over the seeds of a prompt, its mean over prompts
    and numbers; not a number with one seed.
    """
    if latents.shape[1] < 2:
        return math.nan
    return float(latents.double().var(dim=1, unbiased=True).mean())


# --- of both --------------------------------------------------------------------------------------


def diversity(student: Tensor, teacher: Tensor) -> float:
    """The variance within a prompt over the teacher's: 1 is as varied, 0 always the same
    picture.
    """
    theirs = within_prompt_variance(teacher)
    return within_prompt_variance(student) / theirs if theirs else math.nan


def contrast(student: Tensor, teacher: Tensor) -> float:
    """The standard deviation within a picture over the teacher's, geometric mean over channels."""
    return ratio(channel_stds(student), channel_stds(teacher))


def color_shift(student: Tensor, teacher: Tensor) -> float:
    """How far the means of the channels are from the teacher's, in its standard deviations, root
    mean square over channels.
    """
    return shift(channel_means(student), channel_means(teacher), channel_stds(teacher))


def ratio(stds: Tensor, theirs: Tensor) -> float:
    """Standard deviations of channels over the teacher's, both [C]: their geometric mean."""
    return float((stds / theirs).log().mean().exp())


def shift(means: Tensor, theirs: Tensor, stds: Tensor) -> float:
    """How far means of channels are from the teacher's, whose standard deviations are `stds`, all
    [C].
    """
    return float(((means - theirs) / stds).square().mean().sqrt())


def nmse(student: Tensor, teacher: Tensor) -> float:
    """|z_S - z_T|^2 / |z_T(seed a) - z_T(seed b)|^2, each a mean over prompts and seeds: 0 is the
    teacher's own picture, 1 an unrelated one of the same prompt; no number with one seed.
    """
    off = (student.double() - teacher.double()).square().mean()
    return float(off / apart(teacher)) if teacher.shape[1] > 1 else math.nan


def apart(teacher: Tensor) -> Tensor:
    """[N, S, C, h, w] -> the mean square between pictures of a prompt in each seed and the
    next, the first after the last: not of all pairs.
    """
    return (teacher.double() - teacher.double().roll(1, dims=1)).square().mean()


DIVERSITY = Gauge(
    "diversity within a prompt, the teacher is 1",
    diversity,
    neutral=1.0,
    # of the methods in docs/methods.md at 4 steps: 0.87 to 1.12, where the target ran away 2.0
    low=0.5,
    high=1.6,
    is_low="the pictures of a prompt are too alike: train longer, or lower --guidance_scale",
    is_high=(
        "the pictures scatter, the target runs away from the teacher: --target ema, or a lower "
        "--learning_rate"
    ),
)
CONTRAST = Gauge(
    "contrast (std of the latents), the teacher is 1",
    contrast,
    neutral=1.0,
    low=0.75,
    high=1.25,
    is_low="the pictures are flat or blurred: train longer, or --target ema",
    is_high="the pictures are harsh or burnt: lower --guidance_scale, or --learning_rate",
)
COLOR_SHIFT = Gauge(
    "colour shift (mean of the latents), the teacher is 0",
    color_shift,
    neutral=0.0,
    low=0.0,
    high=0.3,
    is_low="",
    is_high="the colours have moved as a whole: --target ema, or a lower --learning_rate",
)

NMSE = Gauge(
    "distance to the teacher's picture of the same seed, another seed is 1",
    nmse,
    neutral=0.0,
    # an adapter whose scheduler adds noise on the way draws other pictures than the teacher, and
    # may do it well: nothing is wrong at any value
    low=0.0,
    high=math.inf,
    is_low="",
    is_high="",
)

GAUGES: Table[Gauge] = Table(
    "gauge",
    {
        "diversity": "lcm.outputs.gauges:DIVERSITY",
        "contrast": "lcm.outputs.gauges:CONTRAST",
        "color_shift": "lcm.outputs.gauges:COLOR_SHIFT",
        "nmse": "lcm.outputs.gauges:NMSE",
    },
)
"""What metrics.jsonl, the log and report.html tell of every grid."""


# --- a line of metrics.jsonl ----------------------------------------------------------------------


def key(name: str, steps: int) -> str:
    """The name of a number of the pictures in so many steps."""
    return f"{name}_{steps}_steps"


def compare(student: Mapping[int, Tensor], teacher: Tensor) -> Values:
    """All numbers of a grid: `student` has its latents by the number of inference steps.

    Means and standard deviations are lists of one a channel. What is not finite is None.
    """
    values: Values = {}
    for name, of_channels in ((MEAN, channel_means), (STD, channel_stds)):
        values[f"{name}_{TEACHER}"] = of_channels(teacher).tolist()
        for steps, latents in student.items():
            values[key(name, steps)] = of_channels(latents).tolist()
    for name, gauge in GAUGES.items():
        for steps, latents in student.items():
            values[key(name, steps)] = gauge.measure(latents, teacher)
    return {name: rounded(value) for name, value in values.items()}


def rounded(value: Any) -> Any:
    """Numbers to 5 digits, or lists of them; None for one that is not finite."""
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if math.isfinite(value) else None


def is_of_grid(line: Mapping[str, Any]) -> bool:
    """Whether a line of metrics.jsonl is one of a grid, and not of updates."""
    return f"{MEAN}_{TEACHER}" in line


def steps_in(line: Mapping[str, Any], name: str) -> list[int]:
    """The numbers of inference steps of which a line has the number of this name, ascending."""
    found = (re.fullmatch(rf"{re.escape(name)}_(\d+)_steps", each) for each in line)
    return sorted(int(match[1]) for match in found if match)


# --- words ----------------------------------------------------------------------------------------


def said(values: Values) -> str:
    """The gauges of a grid, in one line."""
    steps = steps_in(values, MEAN)
    parts = []
    for name in GAUGES:
        numbers = (values.get(key(name, n)) for n in steps)
        shown = ", ".join("-" if number is None else f"{number:.2f}" for number in numbers)
        parts.append(f"{name} {shown}")
    return f"in {', '.join(map(str, steps))} steps: {'; '.join(parts)}"


def concerns(values: Values) -> list[str]:
    """What is out of bounds in the pictures of the most steps, which are the student's best: what
    is wrong with these is not for want of steps. Each with what to do.
    """
    steps = steps_in(values, MEAN)
    if not steps:
        return []
    most = steps[-1]
    means = values[key(MEAN, most)]
    if isinstance(means, list) and None in means:
        return [f"the latents in {most} steps are not finite: --mixed_precision bf16 or no"]
    found = []
    for name, gauge in GAUGES.items():
        value = values.get(key(name, most))
        # a line may have been written by hand, or by another version
        if isinstance(value, int | float) and (what := gauge.concern(value)) is not None:
            bounds = f"{gauge.low:g} to {gauge.high:g}"
            found.append(f"{name} in {most} steps is {value:.2f} (sound: {bounds}): {what}")
    return found
