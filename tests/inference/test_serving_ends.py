"""Requests that fail, are cancelled or outlive the engine, and the server that runs it."""

from __future__ import annotations

import math
import threading
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import lcm
from lcm import Engine, Request
from tests.support.requests import SIZE, alone, build, check, count_rows, mixed

BAD = {
    "positive integer; got 0": Request("x", num_inference_steps=0, **SIZE),
    "`original_steps x strength`": Request("x", num_inference_steps=51, **SIZE),
    "divisible by 8": Request("x", height=17, width=16),
    "one string": Request(["x", "y"], **SIZE),  # type: ignore[arg-type]
    "Did you mean 'guidance_rescale'": Request("x", options={"guidance_rescal": 0.5}),
    "'height' is a field of Request": Request("x", options={"height": 16}),
    "submit it again with another seed": Request("x", options={"num_images_per_prompt": 2}),
    "takes 2 rows of the U-Net, max_batch is 1": Request("x", guidance_scale=2.0, **SIZE),
    "seed must be an integer of 64 bits; got 'one'": Request("x", "one"),  # type: ignore[arg-type]
    "64 bits; got 0.5": Request("x", 0.5),  # type: ignore[arg-type]
    "64 bits; got 18446744073709551616": Request("x", 2**64),
    "guidance_scale must be a finite number; got nan": Request("x", guidance_scale=math.nan),
    "not finite, and would be black": Request(
        "x",
        height=16,
        width=16,
        options={"latents": torch.full((1, 4, 8, 8), math.nan)},
    ),
    "guidance_scale must be a finite number; got '2'": Request("x", guidance_scale="2", **SIZE),  # type: ignore[arg-type]
}


def test_a_bad_request_fails_alone_and_says_why() -> None:
    pipe, good = build(), Request("a red star", 1, 2, **SIZE)
    requests = [good, *BAD.values(), good]
    results = sorted(lcm.serve(pipe, requests, max_batch=1), key=lambda result: result.index)
    for result, message in zip(results[1:-1], BAD, strict=True):
        assert result.image is None
        assert message in str(result.error)
    for result in (results[0], results[-1]):
        np.testing.assert_allclose(result.image, alone(pipe, good), atol=2e-5)


def test_where_a_batch_fails_its_requests_are_tried_alone() -> None:
    pipe, requests = build(), mixed()
    wanted = [alone(pipe, request) for request in requests]

    def out_of_memory(_: Any, args: tuple[Any, ...]) -> None:
        if len(args[0]) > 2 or args[0].shape[-1] > 8:
            raise torch.OutOfMemoryError("too much")

    pipe.unet.register_forward_pre_hook(out_of_memory)
    results = list(lcm.serve(pipe, [*requests, Request("wide", 0, 2, height=16, width=32)]))
    assert [type(result.error) for result in results if result.index == 5] == [
        torch.OutOfMemoryError
    ]
    for result in results:
        if result.index < 5:
            np.testing.assert_allclose(result.image, wanted[result.index], atol=2e-5)


def test_a_request_is_cancelled_before_and_while_it_is_drawn(rows: list[int]) -> None:
    pipe = build()
    count_rows(pipe.unet, rows)
    with Engine(pipe, max_batch=2) as engine:
        kept, dropped, early = (engine.submit(Request("x", i, 3, **SIZE)) for i in range(3))
        assert early.cancel()
        engine.step()
        assert dropped.cancel()
        while not engine.idle:
            engine.step()
        assert rows == [2, 1, 1]
        assert kept.done()
        assert not kept.cancel()
        with pytest.raises(CancelledError):
            dropped.result()


def test_closing_ends_what_is_under_way_and_leaves_no_thread() -> None:
    pipe, before = build(), threading.active_count()
    results = lcm.serve(pipe, mixed())
    next(results)
    assert threading.active_count() > before
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    engine = Engine(pipe, max_batch=2)
    futures = [engine.submit(request) for request in mixed()]
    engine.step()
    engine.close()
    # the first took one step
    assert [future.cancelled() for future in futures] == [
        False,
        True,
        True,
        True,
        True,
    ]
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(mixed()[0])


def test_what_interrupts_a_step_ends_the_engine() -> None:
    pipe, before = build(), threading.active_count()
    engine = Engine(pipe)
    future = engine.submit(mixed()[2])
    engine.step()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    pipe.unet.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert future.cancelled()
    assert threading.active_count() == before


def test_a_server_runs_the_engine_in_one_thread_and_submits_from_others() -> None:
    pipe, requests = build(), mixed()
    wanted = [alone(pipe, request) for request in requests]
    with Engine(pipe, max_batch=3) as engine:
        loop = threading.Thread(target=engine.run)
        loop.start()
        futures: list[Future[Any]] = [Future() for _ in requests]

        def ask(index: int) -> None:
            futures[index] = engine.submit(requests[index])

        clients = [threading.Thread(target=ask, args=(index,)) for index in range(len(requests))]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert not wait(futures, timeout=60).not_done
    loop.join(timeout=60)
    assert not loop.is_alive()
    for future, picture in zip(futures, wanted, strict=True):
        np.testing.assert_allclose(future.result(), picture, atol=2e-5)


def test_the_pipeline_is_as_it_was_and_inference_mode_is_welcome() -> None:
    pipe = build()
    before = dict(vars(pipe))
    with torch.inference_mode():
        results = list(lcm.serve(pipe, mixed()))
    assert vars(pipe) == before
    check(pipe, results, mixed())


def test_what_cannot_be_served_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="max_batch"):
        lcm.serve(build(), [], max_batch=0)
    with pytest.raises(ValueError, match="cannot serve DiffusionPipeline"):
        lcm.serve(DiffusionPipeline(), [])
