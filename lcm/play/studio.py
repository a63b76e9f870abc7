"""Who draws for all visitors: one thread, one batch, one mixture of adapters at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from lcm.inference.serving import Engine, QueueFullError, Request
from lcm.inference.serving.futures import settle
from lcm.play.stage import Look, Stage

MOST_PIXELS = 2048 * 2048
"""Of a picture, whether it is drawn or begun with."""


@dataclass(frozen=True, eq=False)
class Job:
    """A picture to draw with a look, or some `work` on the stage itself."""

    look: Look | None = None
    request: Request | None = None
    begins_with_picture: bool = False
    work: Callable[[Stage], Any] | None = None
    future: Future[Any] = field(default_factory=Future)


class Studio:
    """Draws jobs in the order in which they came: what shares a look shares a batch, and a job of
    another one waits until those before it are drawn. None is overtaken, so none waits for ever.

    `draw` and `change` may be called from any thread, `run` is the loop of one. A future can be
    cancelled at any time before it is done. `max_waiting` is how many jobs may wait.
    """

    def __init__(self, stage: Stage, *, max_batch: int = 8, max_waiting: int = 64) -> None:
        self.stage, self.max_waiting = stage, max_waiting
        self._engines = [
            Engine(pipe, max_batch=max_batch, max_pixels=MOST_PIXELS, stays=True)
            for pipe in (stage.text, stage.image)
        ]
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def draw(self, look: Look, request: Request, *, begins_with_picture: bool = False) -> Any:
        """A future of the picture. Raises QueueFullError and RuntimeError as `Engine.submit`."""
        return self._put(Job(look, request, begins_with_picture))

    def change(self, work: Callable[[Stage], Any]) -> Any:
        """A future of what `work` returns, which has the stage to itself."""
        return self._put(Job(work=work))

    def _put(self, job: Job) -> Future[Any]:
        with self._changed:
            if self._closed:
                raise RuntimeError("the playground is closed; start it again")
            if sum(not job.future.done() for job in self._waiting) >= self.max_waiting:
                raise QueueFullError(
                    f"{self.max_waiting} pictures wait already; try again in a moment"
                )
            self._waiting.append(job)
            self._changed.notify_all()
        return job.future

    @property
    def _idle(self) -> bool:
        return all(engine.idle for engine in self._engines)

    def run(self) -> None:
        """Draws whenever there is something to draw, until `close`."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._closed or bool(self._waiting) or not self._idle
                    )
                if self._closed:
                    return
                self._admit()
                for engine in self._engines:
                    if not engine.idle:
                        engine.step()
        finally:
            self.close()

    def close(self) -> None:
        """Ends `run`; what is not drawn yet is cancelled."""
        with self._changed:
            self._closed = True
            left = [job.future for job in self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
        for engine in self._engines:
            engine.close()
        for future in left:
            future.cancel()

    def _admit(self) -> None:
        """Gives jobs to the engines, up to the first that needs what is under way to end."""
        while self._waiting:
            job = self._waiting[0]
            if not job.future.done():
                alone = job.work is not None or job.look != self.stage.look
                if alone and not self._idle:
                    return
                self._begin(job)
            with self._changed:
                if self._waiting:  # `close` empties it
                    self._waiting.popleft()

    def _begin(self, job: Job) -> None:
        try:
            if job.work is not None:
                settle(job.future, job.work(self.stage), None)
                return
            assert job.look is not None and job.request is not None
            self.stage.put(job.look)
            drawn = self._engines[job.begins_with_picture].submit(job.request)
        except Exception as error:
            settle(job.future, None, error)
            return
        link(job.future, drawn)


def link(outer: Future[Any], inner: Future[Any]) -> None:
    """Makes `outer` end as `inner` does, and whoever cancels it cancel that."""

    def ended(future: Future[Any]) -> None:
        if future.cancelled():
            outer.cancel()
        else:
            error = future.exception()
            settle(outer, None if error else future.result(), error)

    outer.add_done_callback(lambda future: future.cancelled() and inner.cancel())
    inner.add_done_callback(ended)
