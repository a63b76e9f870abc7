"""Requests drawn in one batch, in the loop of whoever asks for their results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from lcm.adapter.recipe import Recipe
from lcm.inference.pipeline import Pipeline
from lcm.inference.serving.engine import Engine
from lcm.inference.serving.request import Request


@dataclass(frozen=True)
class Result:
    """What became of request number `index`: its image, or the error that it failed with."""

    index: int
    request: Request
    image: Any = None
    error: BaseException | None = None


def serve(
    pipe: Pipeline,
    requests: Iterable[Request | str],
    *,
    max_batch: int = 8,
    recipe: Recipe | None = None,
) -> Iterator[Result]:
    """The results of `requests`, or prompts, each as soon as it is there; requests are taken as
    there is room for them.

    `pipe`, `max_batch` and `recipe` as for `Engine`, whose errors are raised at once. One that
    fails does so alone, in its result.
    """
    engine = Engine(pipe, max_batch=max_batch, recipe=recipe)
    if isinstance(requests, str | Request) or not isinstance(requests, Iterable):
        raise ValueError(f"pass a list of requests or prompts; got {requests!r}")
    return _results(engine, enumerate(requests))


def _results(engine: Engine, source: Iterator[tuple[int, Any]]) -> Iterator[Result]:
    pending: dict[Future[Any], tuple[int, Any]] = {}
    with engine:
        while True:
            while engine.has_room and (numbered := next(source, None)):
                pending[engine.submit(numbered[1])] = numbered
            if not pending:
                return
            engine.step()
            for future in [future for future in pending if future.done()]:
                index, request = pending.pop(future)
                error = future.exception()
                if isinstance(request, str):
                    request = Request(request)
                yield Result(index, request, None if error else future.result(), error)
