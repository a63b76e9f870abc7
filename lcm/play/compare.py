"""The same prompt and seed with the teacher and with every few-step adapter, side by side: drawn,
and saved as one picture.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lcm.play.messages import FIX, Wish, checked, look_of, request_of, scheduler_of
from lcm.play.pictures import as_png, drawn_with
from lcm.play.settings import saved
from lcm.play.stage import Loaded, Stage
from lcm.play.studio import Studio
from lcm.system.image_grid import draw_labelled, fitting
from lcm.system.json_input import as_object
from lcm.system.text import plain

TEACHER_STEPS = (40, 4)
STEPS = (1, 2, 4, 8)
WIDTH, LETTERS = 192, 28
"""Pixels that a picture of a saved grid has at least, and so many letters stand above it."""
KEPT = 32
"""Pictures of the teacher that are kept: it takes ten times as long as the others."""


@dataclass(frozen=True)
class Column:
    """`lead` None is the teacher."""

    lead: str | None
    steps: int

    @property
    def label(self) -> str:
        """What stands above its picture."""
        return f"{self.lead or 'teacher'}, {self.steps} step{'' if self.steps == 1 else 's'}"


def columns(adapters: Mapping[str, Loaded]) -> list[Column]:
    """The teacher, and every few-step adapter at the numbers of steps that it plays with."""
    found = [Column(None, steps) for steps in TEACHER_STEPS]
    for name, loaded in adapters.items():
        if (recipe := loaded.recipe) is None:
            continue
        fixed = recipe.scheduler == "DDIMScheduler"  # others make worse pictures
        found += [Column(name, n) for n in STEPS if not fixed or n in recipe.num_inference_steps]
    return found


def wishes(stage: Stage, message: Mapping[str, Any]) -> list[tuple[Column, Wish]]:
    """The pictures of a comparison, every one with the styles of the message. `guidance` is the
    teacher's; adapters have that of their recipes. Raises ValueError for what the page does not
    send.
    """
    adapters = dict(stage.adapters)
    weights = as_object(message.get("weights"), "weights of the message", FIX)
    styles = {n: w for n, w in weights.items() if n in adapters and not adapters[n].recipe}
    found = []
    for column in columns(adapters):
        own, recipe = {}, None
        if column.lead is not None:
            recipe = adapters[column.lead].recipe
            own = {column.lead: weights.get(column.lead) or adapters[column.lead].weight or 1.0}
        look = look_of({"lead": column.lead, "weights": {**styles, **own}}, adapters)
        request = request_of(
            stage,
            recipe,
            prompt=checked(message, "prompt"),
            negative=checked(message, "negative"),
            seed=checked(message, "seed"),
            steps=column.steps,
            guidance=recipe.guidance_scale if recipe else float(checked(message, "guidance")),
        )
        found.append((column, Wish(look, request, scheduler_of(stage, recipe))))
    return found


def in_order(asked: Sequence[tuple[Column, Wish]]) -> list[int]:
    """The places in which to draw them: the teacher comes last, it keeps the others waiting."""
    return sorted(range(len(asked)), key=lambda place: asked[place][0].lead is None)


class Comparisons:
    """Draws them; what the teacher drew is kept."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._kept: OrderedDict[Any, Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    def draw(self, column: Column, wish: Wish) -> Future[Any]:
        """A future of its picture. Raises as `Studio.draw`."""
        key = (wish.look, json.dumps(vars(wish.request), sort_keys=True, default=str))
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None:
            done: Future[Any] = Future()
            done.set_result(kept)
            return done
        future: Future[Any] = self.studio.draw(wish.look, wish.request)
        if column.lead is None:
            future.add_done_callback(lambda drawn: self._keep(key, drawn))
        return future

    def forget(self) -> None:
        """Drops what was kept: another adapter may come by the name of one that is gone."""
        with self._lock:
            self._kept.clear()

    def _keep(self, key: Any, drawn: Future[Any]) -> None:
        if drawn.cancelled() or drawn.exception() is not None:
            return
        with self._lock:
            self._kept[key] = drawn.result()
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)


def grid(
    stage: Stage, message: Mapping[str, Any], asked: Sequence[tuple[Column, Wish]], images: Any
) -> bytes:
    """A PNG file of the pictures in a row, None where one failed, with the settings in it."""
    drawn = [image for image in images if image is not None]
    size = drawn[0].size
    blank = Image.new("RGB", size, "gray")
    labels = [plain(column.label, LETTERS) for column, _ in asked]
    times = -(-WIDTH // size[0])
    picture = draw_labelled(
        [image or blank for image in images],
        fitting((times * size[0], times * size[1]), 1, len(labels)),
        [str(message["prompt"])],
        labels,
    )
    shown = [{"adapter": column.lead, "steps": column.steps} for column, _ in asked]
    settings = saved(stage, message, [wish.look for _, wish in asked], columns=shown)
    return as_png(picture, drawn_with(stage, asked[0][1], size), settings)
