"""Until a student of the tiny world draws well, on the card: the curve."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.gpu.plan import Bench
from benchmarks.gpu.shapes import SIDE, Shapes
from benchmarks.gpu.worlds import precision_of
from benchmarks.time_to_quality import IMAGES, NUM_IMAGES, Course, load_plan, turn
from examples.shapes.judge import Judge
from lcm.inference import make_scheduler
from lcm.training.setup import build_recipe
from lcm.training.step import train_step

ENTRY = "this toolkit, pictures"
"""The settings, of time_to_quality.yaml."""
TINY_IMAGES, TINY_BATCH, TINY_UPDATES = 8, 2, 2


class Learner:
    """A run of this toolkit on pictures that are encoded already."""

    def __init__(self, world: Shapes, batch: int, flags: dict[str, Any]) -> None:
        self.world, self.size = world, batch
        self.run, self.state = world.run(batch, **flags)
        self.recipe = build_recipe(self.run.config, self.run.family, SIDE, None)

    def update(self) -> None:
        """One update."""
        batch = self.world.batch(self.state.step, self.size)
        train_step(self.run, self.state, iter([batch]))

    @contextmanager
    def drawing(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The pipeline, and how it is called."""
        family = self.run.family
        with self.state.student.drawing() as unet:
            scheduler = make_scheduler(family.pipe.scheduler.config, self.recipe)
            pipe = family.few_step_pipe(unet, scheduler)
            yield pipe, {"guidance_scale": self.recipe.guidance_scale, "eta": self.recipe.eta}


def measure(bench: Bench, precision: str) -> dict[str, Any]:
    """The curve until both levels are reached at 2 and 4 steps, the updates are made, or the time
    is over. Encoding counts, scoring does not.
    """
    flags = dict(load_plan()["learners"][ENTRY])
    del flags["kind"]
    batch = TINY_BATCH if bench.tiny else flags.pop("train_batch_size")
    flags.pop("train_batch_size", None)
    updates = TINY_UPDATES if bench.tiny else flags["max_train_steps"]
    pictures = TINY_BATCH if bench.tiny else NUM_IMAGES
    learners: list[Learner] = []

    def begin() -> None:
        world = Shapes.make(bench, precision, TINY_IMAGES if bench.tiny else IMAGES)
        learners.append(Learner(world, batch, flags))

    encoding = bench.device.seconds(begin)
    course = Course(ENTRY, learners[0], updates, encoding, bench.device.seconds)
    judge = Judge.load()
    while not course.is_over and time.perf_counter() < bench.until:
        course.train(turn(course.updates))
        course.score(judge, pictures)
    return {
        "entry": ENTRY,
        "precision": precision_of(bench, precision),
        "batch": batch,
        "encoding_seconds": encoding,
        "curve": course.curve,
        "state": bench.device.state(),
    }
