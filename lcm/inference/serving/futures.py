"""Futures of pictures, and giving them what they wait for."""

from __future__ import annotations

import logging
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from lcm.inference.serving.drawing import INSIDE

logger = logging.getLogger(__name__)


class Picture(Future[Any]):
    """A future of an image of one engine. Who waits for it within a step of that engine, which
    would wait for ever, is told so.
    """

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self._engine = engine

    def result(self, timeout: float | None = None) -> Any:
        """As `Future.result`. Raises RuntimeError within a step, unless the image is there."""
        self._check_may_wait()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `Future.exception`. Raises RuntimeError within a step, unless it has ended."""
        self._check_may_wait()
        return super().exception(timeout)

    def _check_may_wait(self) -> None:
        if not self.done():
            check_outside(self._engine, "wait for another request", also_delivering=True)


def check_outside(engine: Any, doing: str, also_delivering: bool = False) -> None:
    """Raises RuntimeError in a thread that a step of the engine waits for; `also_delivering` in the
    callbacks of its futures too, which may call the engine but not wait for it.
    """
    engines = (*INSIDE.engines, *(INSIDE.delivering if also_delivering else ()))
    if any(other is engine for other in engines):
        raise RuntimeError(
            f"a callback cannot {doing}: the engine's step waits for the callback; leave it to "
            "another thread"
        )


def settle(future: Future[Any], image: Any, error: BaseException | None) -> None:
    """Ends the future, unless it was cancelled or somebody else has ended it."""
    if future.done() and not future.cancelled():
        return
    with suppress(InvalidStateError, RuntimeError):
        # which tells whoever waits in `concurrent.futures.wait` of a cancellation
        if not future.running() and not future.set_running_or_notify_cancel():
            return
    try:
        with suppress(InvalidStateError):
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(image)
    except KeyboardInterrupt:
        raise
    except BaseException:
        # `Future` itself does so with what is an Exception
        logger.exception("a callback of a future raised")
