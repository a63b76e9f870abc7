"""What a picture costs, on this machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lcm.evaluation.metric import Metric, Statistic, constant
from lcm.evaluation.scene import Scene
from lcm.evaluation.speed import Speed

COST = "cost"


def of_speed(read: Callable[[Speed], float], scene: Scene) -> Statistic | None:
    """A number of the speed; None where it was not measured."""
    if scene.speed is None:
        return None
    details = {"device": scene.speed.device, "batch_size": scene.speed.batch_size}
    return constant(read(scene.speed), scene.speed.batch_size, details=details)


SECONDS = Metric(
    "seconds a picture",
    COST,
    "lower",
    partial(of_speed, lambda speed: speed.seconds),
    about="median of the calls in which the pictures were drawn",
    of_teacher=True,
    form=".3g",
)
UNET_CALLS = Metric(
    "U-Net calls",
    COST,
    "lower",
    partial(of_speed, lambda speed: speed.calls),
    about="evaluations of the U-Net a picture, guidance counts twice",
    of_teacher=True,
    form="g",
)
PEAK_MEMORY = Metric(
    "peak memory, MiB",
    COST,
    "lower",
    partial(of_speed, lambda speed: speed.memory / 2**20),
    about="beyond the weights, of one call",
    of_teacher=True,
    form=".4g",
)
