"""Callbacks that raise anything or call the engine, futures that others set, and requests of every
wrong kind: each fails alone, with its reason, and the engine goes on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

import lcm
from lcm import Engine, Request
from lcm.inference.serving import QueueFullError
from lcm.inference.serving.drawing import Cancelled
from tests.support.requests import NUMBERS, SIZE, alone, build
from tests.support.worlds import build_sdxl

GOOD = Request("a red star", 1, 2, **SIZE)


def calling(callback: Callable[[], Any], steps: int = 2) -> Request:
    """A request that makes this call at every step."""

    def at_step(pipe: Any, index: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        callback()
        return tensors

    return Request(
        "x", 2, steps, **{**SIZE, "options": {**NUMBERS, "callback_on_step_end": at_step}}
    )


def raising(error: BaseException) -> Request:
    def fail() -> None:
        raise error

    return calling(fail)


@contextmanager
def running(**options: Any) -> Iterator[Engine]:
    """An engine that another thread runs; the test fails where that does not end."""
    with Engine(build(), **options) as engine:
        loop = threading.Thread(target=engine.run, daemon=True)
        loop.start()
        yield engine
    loop.join(timeout=60)
    assert not loop.is_alive()


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(),
        CancelledError(),
        asyncio.CancelledError(),
        Cancelled(),
        BaseException("mine"),
        ValueError("mine"),
    ],
    ids=lambda error: f"{type(error).__module__}.{type(error).__name__}",
)
def test_whatever_a_callback_raises_is_the_reason_of_its_own_request(error: BaseException) -> None:
    failed, good = lcm.serve(build(), [raising(error), GOOD])
    assert failed.image is None and good.error is None
    if isinstance(error, ValueError):
        assert failed.error is error
    else:
        assert isinstance(failed.error, RuntimeError) and failed.error.__cause__ is error
        assert type(error).__name__ in str(failed.error)


@pytest.mark.parametrize("what", ["step", "run", "close", "result", "exception", "earlier", "with"])
def test_a_callback_that_would_wait_for_its_own_engine_is_told_so(what: str) -> None:
    with running() as engine:
        earlier = engine.submit(Request("x", 0, 8, **SIZE))

        def leave() -> None:
            with engine:
                pass

        calls: dict[str, Callable[[], Any]] = {
            "step": engine.step,
            "run": engine.run,
            "close": engine.close,
            "result": lambda: engine.submit(GOOD).result(),
            "exception": lambda: engine.submit(GOOD).exception(timeout=60),
            "earlier": earlier.result,
            "with": leave,
        }
        future = engine.submit(calling(calls[what], steps=1))
        with pytest.raises(RuntimeError, match=r"a callback cannot .*leave it to another thread"):
            future.result(timeout=60)
        np.testing.assert_allclose(
            engine.submit(GOOD).result(timeout=60), alone(build(), GOOD), atol=2e-5
        )


def test_a_callback_may_submit_cancel_and_use_another_engine() -> None:
    later: list[Future[Any]] = []
    with running() as engine:

        def submit() -> None:
            later.append(engine.submit(GOOD))
            later[0].cancel()
            (result,) = lcm.serve(build(), [GOOD])
            later.append(Future())
            later[-1].set_result(result.image)

        assert engine.submit(calling(submit, steps=1)).result(timeout=60) is not None
    assert later[0].cancelled()
    np.testing.assert_allclose(later[1].result(), alone(build(), GOOD), atol=2e-5)


def test_the_callback_of_a_future_may_call_the_engine_but_not_wait_for_it() -> None:
    said: list[BaseException] = []
    with Engine(build()) as engine:
        slow = engine.submit(Request("x", 0, 4, **SIZE))

        def ask(_: Any) -> None:
            engine.step()
            try:
                slow.result()
            except RuntimeError as error:
                said.append(error)
            raise SystemExit

        engine.submit(Request("x", 1, 1, **SIZE)).add_done_callback(ask)
        while not engine.idle:
            engine.step()
        assert "a callback cannot wait for another request" in str(said[0])
        assert slow.result() is not None


@pytest.mark.parametrize("meddle", ["set", "fail", "begin", "cancel"])
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_future_that_others_set_is_theirs_and_nothing_else_changes(
    meddle: str, when: str
) -> None:
    with Engine(build()) as engine:
        future, good = engine.submit(Request("x", 0, 4, **SIZE)), engine.submit(GOOD)
        if when == "while":
            engine.step()
        {
            "set": lambda: future.set_result("mine"),
            "fail": lambda: future.set_exception(KeyError("mine")),
            "begin": future.set_running_or_notify_cancel,
            "cancel": future.cancel,
        }[meddle]()
        while not engine.idle:
            engine.step()
        assert future.done() and good.result() is not None
        if meddle == "set":
            assert future.result() == "mine"
        assert wait([future, good], timeout=0).not_done == set() or meddle == "cancel"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (None, "pass a lcm.Request or a prompt; got NoneType"),
        (3, "pass a lcm.Request or a prompt; got int"),
        ({"prompt": "x"}, "got dict"),
        (Request, "got type"),
        (Request(None), "prompt must be one string"),  # type: ignore[arg-type]
        (Request("x", negative_prompt=["y"]), "negative_prompt must be one string"),  # type: ignore[arg-type]
        (Request("x", options=[1]), "options must be a mapping"),  # type: ignore[arg-type]
        (Request("x", options={1: 2}), "has no argument 1"),  # type: ignore[dict-item]
        (Request("x", num_inference_steps=True), "positive integer; got True"),
        (Request("x", num_inference_steps=10**9), "num_inference_steps must be at most 1000"),
        (Request("x", eta="x"), "eta must be a finite number"),  # type: ignore[arg-type]
        (Request("x", eta=float("nan")), "eta must be a finite number"),
        *(
            (Request("x", **{side: value}), f"{side} must be a positive integer; got {value!r}")
            for side in ("height", "width")
            for value in (0, -16, "64", 16.0, True)
        ),
        (Request("x", height=4096, width=8192), "33554432 pixels, this engine draws 16777216"),
        (Request("x", height=8 * 10**6), "pixels, this engine draws 16777216 at most"),
    ],
)
def test_what_is_no_request_fails_alone(item: Any, message: str) -> None:
    failed, good = sorted(lcm.serve(build(), [item, GOOD]), key=lambda result: result.index)
    assert failed.image is None and message in str(failed.error)
    assert good.error is None


def test_prompts_are_requests() -> None:
    pipe = build()
    pipe.set_progress_bar_config(disable=True)
    (result,) = lcm.serve(pipe, ["a red star"])
    assert result.request == Request("a red star")
    with Engine(pipe) as engine:
        future = engine.submit("a red star")
        while not engine.idle:
            engine.step()
    assert np.array_equal(np.asarray(future.result()), np.asarray(result.image))
    for requests in ("a red star", GOOD, 3, None):
        with pytest.raises(ValueError, match="pass a list of requests or prompts"):
            lcm.serve(pipe, requests)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [build, lambda: build(build_sdxl)])
@pytest.mark.parametrize("side", ["height", "width"])
def test_one_side_alone_stands_beside_the_pipelines_own(make: Any, side: str) -> None:
    pipe = make()
    own = pipe.unet.config.sample_size * pipe.vae_scale_factor
    request = Request("a star", 0, 1, options=NUMBERS, **{side: 2 * own})
    (result,) = lcm.serve(pipe, [request])
    assert result.image.shape == ((2 * own, own, 3) if side == "height" else (own, 2 * own, 3))


def test_what_cannot_be_a_limit_is_refused() -> None:
    pipe = build()
    for name in ("max_batch", "max_waiting", "max_pixels"):
        for value in (0, -1, 1.5, float("nan"), True, "x"):
            with pytest.raises(ValueError, match=f"{name} must be a positive integer"):
                Engine(pipe, **{name: value})
    with pytest.raises(ValueError, match="max_batch must be a positive integer; got None"):
        Engine(pipe, max_batch=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"recipe must be a lcm\.Recipe"):
        Engine(pipe, recipe="x")  # type: ignore[arg-type]


def test_limits_of_an_engine() -> None:
    pipe = build()
    with Engine(pipe, max_waiting=1, max_pixels=16 * 16) as engine:
        first = engine.submit(GOOD)
        with pytest.raises(QueueFullError, match="1 requests wait already"):
            engine.submit(GOOD)
        first.cancel()
        second = engine.submit(GOOD)
        for large in (Request("x", height=24, width=16), Request("x", height=24)):
            with pytest.raises(ValueError, match="this engine draws 256 at most"):
                engine.submit(large).result()
        while not engine.idle:
            engine.step()
        assert second.result() is not None
    pipe = StableDiffusionImg2ImgPipeline(**build().components, requires_safety_checker=False)
    with Engine(pipe, max_pixels=16 * 16) as engine:
        for image in (
            Image.new("RGB", (24, 16)),
            [Image.new("RGB", (24, 16))],
            torch.zeros(1, 3, 24, 16),
            np.zeros((24, 16, 3)),
        ):
            with pytest.raises(ValueError, match="384 pixels, this engine draws 256"):
                engine.submit(Request("x", 0, 2, options={"image": image})).result()
