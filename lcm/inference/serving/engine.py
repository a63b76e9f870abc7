"""The engine: every step is one call of the U-Net for all requests that are under way."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, Self

import torch
from diffusers import (
    LatentConsistencyModelPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor

from lcm.adapter.recipe import Recipe
from lcm.inference import current_recipe
from lcm.inference.arguments import whole
from lcm.inference.pipeline import Pipeline
from lcm.inference.serving.calls import Call, groups, make
from lcm.inference.serving.drawing import Drawing, Facts, gather_facts, inside
from lcm.inference.serving.futures import Picture, check_outside, settle
from lcm.inference.serving.request import MAX_PIXELS, Request, as_request
from lcm.inference.state import attachment
from lcm.inference.texts import say_once
from lcm.models.families.base import PIXELS_AT_ONCE
from lcm.models.prompts import final_norm, said_already

PIPELINES = (
    *(StableDiffusionPipeline, StableDiffusionXLPipeline, LatentConsistencyModelPipeline),
    *(StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline),
)


def check_no_first_steps(pipe: Any) -> None:
    """Raises ValueError for a pipeline whose teacher makes first steps: a batch has requests at
    different steps, and one adapter for all of them.
    """
    found = attachment(pipe)
    if found is not None and found.teacher_first_steps:
        raise ValueError(
            "an engine draws requests that are at different steps together, so the adapter cannot "
            "be off in the first ones: lcm.detach(pipe), then attach it without teacher_first_steps"
        )


class QueueFullError(RuntimeError):
    """As many requests wait as may."""


class Engine:
    """Draws requests with a pipeline, which may have adapters; each result is what the pipeline
    alone gives, to rounding.

    A request is the stock pipeline's own call with a scheduler and a generator of its own. It stops
    wherever it calls a network; the engine makes the calls of all requests that have like shapes as
    one. `max_batch` is the most rows of the U-Net at a time; a guided request takes two. Requests
    begin in the order they came in, none is overtaken. While an engine is at work, nobody else may
    use or change the pipeline.

    `submit` and `Future.cancel` may be called from any thread, `step` or `run` from one. Callbacks
    of requests run within a step: from there, `step`, `run`, `close` and waiting for other requests
    raise RuntimeError. `recipe` gives requests their defaults, else that of the attached adapter
    does. `max_waiting` is how many requests may wait, None for any number; `max_pixels` the most
    pixels of a picture. `stays` says that the pipeline is never moved nor given another precision
    while the engine lives, which is otherwise looked up whenever it was idle. Raises ValueError for
    a pipeline of another kind and for limits that are no positive integers.
    """

    def __init__(
        self,
        pipe: Pipeline,
        *,
        max_batch: int = 8,
        recipe: Recipe | None = None,
        max_waiting: int | None = None,
        max_pixels: int = MAX_PIXELS,
        stays: bool = False,
    ) -> None:
        if not isinstance(pipe, PIPELINES):
            kinds = ", ".join(kind.__name__ for kind in PIPELINES)
            raise ValueError(
                f"cannot serve {type(pipe).__name__}; pass one of {kinds}, or of a class derived "
                "from them"
            )
        check_no_first_steps(pipe)
        self.max_batch = whole("max_batch", max_batch)
        self.max_waiting = None if max_waiting is None else whole("max_waiting", max_waiting)
        self.max_pixels = whole("max_pixels", max_pixels)
        if recipe is not None and not isinstance(recipe, Recipe):
            raise ValueError(f"recipe must be a lcm.Recipe; got {recipe!r}")
        self.pipe, self.recipe = pipe, recipe or current_recipe(pipe)
        self._waiting: deque[tuple[Future[Any], Drawing]] = deque()
        self._running: dict[Future[Any], Drawing] = {}
        self._changed = threading.Condition()
        self._stepping = threading.RLock()
        self._closed, self._stays = False, stays
        self._facts: Facts | None = None
        self._warned: set[str] = set()

    def submit(self, request: Request | str) -> Future[Any]:
        """A future of the image of a request, or of a prompt alone. It raises what is wrong with
        the request, which disturbs no other; its `cancel` works at any time before the image is
        there, and takes effect at the next step. Raises RuntimeError when the engine is closed,
        QueueFullError when `max_waiting` requests wait.
        """
        future = Picture(self)
        try:
            arguments = as_request(request).arguments(self.pipe, self.recipe, self.max_pixels)
            rows = self._rows(arguments["guidance_scale"])
        except Exception as error:
            future.set_exception(error)
            return future
        say_once(self.pipe, self._warned, arguments)
        with self._changed:
            if self._closed:
                raise RuntimeError("this engine is closed; make another")
            waiting = sum(not future.done() for future, _ in list(self._waiting))
            if self.max_waiting is not None and waiting >= self.max_waiting:
                raise QueueFullError(
                    f"{self.max_waiting} requests wait already; submit this one later, or make the "
                    "engine with a larger max_waiting"
                )
            self._waiting.append((future, Drawing(arguments, rows)))
            self._changed.notify_all()
        return future

    @property
    def idle(self) -> bool:
        """Whether there is nothing to draw."""
        return not self._waiting and not self._running

    @property
    def has_room(self) -> bool:
        """Whether one more request would begin at the next step."""
        return (
            self._rows_running() + sum(drawing.rows for _, drawing in list(self._waiting))
            < self.max_batch
        )

    def step(self) -> None:
        """Lets requests in as there is room, calls the U-Net once for every latent size under way,
        and finishes whoever is done.
        """
        check_outside(self, "call Engine.step")
        try:
            with (
                self._stepping,
                torch.inference_mode(False),
                torch.no_grad(),
                inside(self),
                final_norm(self.pipe),
                said_already(self.pipe),
            ):
                self._drop_ended()
                self._admit()
                self._settle()
                self._answer(list(self._running.values()))
                self._settle()
            self._deliver()
        except BaseException:  # Ctrl-C in the middle of it
            self.close()
            raise

    def run(self) -> None:
        """Steps whenever there is something to draw, until `close`: the loop of a server's
        thread.
        """
        check_outside(self, "call Engine.run")
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or not self.idle)
            if self._closed:
                return
            self.step()

    def close(self) -> None:
        """Ends what is under way; its futures are cancelled. Ends `run`."""
        check_outside(self, "call Engine.close")
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with self._stepping:
            for drawing in self._running.values():
                drawing.stop()
            futures = [*self._running, *(future for future, _ in self._waiting)]
            self._running.clear()
            self._waiting.clear()
        for future in futures:
            future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, guidance_scale: float) -> int:
        """How many rows of the U-Net a request takes. Raises ValueError for more than there are."""
        rows = 2 if guidance_scale > 1.0 and self.pipe.unet.config.time_cond_proj_dim is None else 1
        if rows > self.max_batch:
            raise ValueError(
                f"a guided request takes {rows} rows of the U-Net, max_batch is {self.max_batch}; "
                f"pass at least {rows}"
            )
        return rows

    def _rows_running(self) -> int:
        return sum(drawing.rows for drawing in list(self._running.values()))

    def _drop_ended(self) -> None:
        """Those that were cancelled, or that somebody else has answered."""
        for future in [future for future in self._running if future.done()]:
            self._running.pop(future).stop()

    def _admit(self) -> None:
        while self._waiting:
            future, drawing = self._waiting[0]
            if not future.done():
                if self._rows_running() + drawing.rows > self.max_batch:
                    return
                if self._facts is None or not (self._running or self._stays):
                    # while it was idle, the pipeline may have been changed
                    self._facts = gather_facts(self.pipe)
                self._running[future] = drawing
                drawing.start(self.pipe, self._facts)
            self._waiting.popleft()

    def _settle(self) -> None:
        """Answers other networks until every request waits for the U-Net or has ended."""
        while others := [
            d for d in self._running.values() if d.call is not None and d.call.name != "unet"
        ]:
            self._answer(others)

    def _answer(self, drawings: list[Drawing]) -> None:
        """Makes the calls that these wait for, then lets each of them go on."""
        asking = {d.call: d for d in drawings if d.call is not None}
        answers = [
            (call, answer)
            for group in groups(asking, self._most_rows)
            for call, answer in zip(group, make(self._network(group[0].name), group), strict=True)
        ]
        for call, answer in answers:
            asking[call].go_on(answer)

    def _network(self, name: str) -> Any:
        return self._decode if name == "vae" else getattr(self.pipe, name)

    def _most_rows(self, call: Call) -> int:
        """The VAE takes few pixels at a time: its activations would outgrow those of the U-Net."""
        if call.name != "vae":
            return self.max_batch
        return max(1, PIXELS_AT_ONCE // (call.first[0, 0].numel() * self.pipe.vae_scale_factor**2))

    def _decode(self, z: Tensor, return_dict: bool, dtype: torch.dtype) -> Any:
        """Stock SDXL widens a VAE of half precision for its decode and narrows it afterwards;
        others may have done either.
        """
        vae = self.pipe.vae
        if z.dtype == torch.float32 and vae.dtype != z.dtype:
            vae.to(z.dtype)
        try:
            return vae.decode(z, return_dict=return_dict)
        finally:
            if vae.dtype != dtype:
                vae.to(dtype)

    def _deliver(self) -> None:
        """Gives the results to the futures; outside the step, since these call back."""
        with self._stepping:
            ended = [
                (future, drawing)
                for future, drawing in self._running.items()
                if drawing.call is None
            ]
        with inside(self, doing="delivering"):
            for future, drawing in ended:
                settle(future, drawing.image, drawing.error)
                self._running.pop(future, None)
