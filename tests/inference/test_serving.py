"""Continuous batching: every request is drawn as the pipeline alone draws it, and requests share
calls of the U-Net.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    TCDScheduler,
)
from PIL import Image

import lcm
from lcm import Engine, Request
from lcm.adapter.lora import add_lora
from pipelines import FewStepStableDiffusionPipeline
from tests.support.adapters import make_recipe, write_adapter
from tests.support.worlds import build_sd, build_sdxl, build_unet, randomize_lora

NUMBERS = {"output_type": "np"}
SIZE: dict[str, Any] = {"height": 16, "width": 16, "options": NUMBERS}


def build(make: Callable[[], Any] = build_sd, scheduler: Any = LCMScheduler) -> Any:
    pipe = make()
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return pipe


def mixed() -> list[Request]:
    """Requests of every number of steps, some of them guided; more steps than requests fit into a
    batch.
    """
    return [
        Request("a red star", seed=1, num_inference_steps=1, **SIZE),
        Request(
            "a blue ring",
            seed=2,
            num_inference_steps=4,
            guidance_scale=3.0,
            negative_prompt="a square",
            **SIZE,
        ),
        Request("", seed=3, num_inference_steps=8, **SIZE),
        Request("a red star", seed=4, num_inference_steps=2, guidance_scale=1.5, **SIZE),
        Request("a white ring", seed=1, num_inference_steps=4, **SIZE),
    ]


def alone(pipe: Any, request: Request) -> np.ndarray:
    """What stock diffusers draws of a request with the same numbers."""
    said = {
        "negative_prompt": request.negative_prompt,
        "eta": request.eta,
        "height": request.height,
        "width": request.width,
    }
    images: np.ndarray = pipe(
        request.prompt,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale or 1.0,
        generator=torch.Generator().manual_seed(request.seed),
        **{name: value for name, value in said.items() if value is not None},
        **request.options,
    ).images
    return images[0]


def check(pipe: Any, results: list[Any], requests: list[Request], atol: float = 2e-5) -> None:
    assert sorted(result.index for result in results) == list(range(len(requests)))
    for result in results:
        assert result.error is None
        assert result.request == requests[result.index]
        np.testing.assert_allclose(result.image, alone(pipe, result.request), atol=atol)


@pytest.fixture
def rows() -> list[int]:
    return []


def count_rows(module: torch.nn.Module, rows: list[int]) -> None:
    """Writes down the batch of every call."""
    module.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))


@pytest.mark.parametrize(
    ("make", "scheduler"),
    [
        *(
            (build_sd, scheduler)
            for scheduler in (
                LCMScheduler,
                TCDScheduler,
                DDIMScheduler,
                DPMSolverMultistepScheduler,
            )
        ),
        *((build_sdxl, scheduler) for scheduler in (LCMScheduler, EulerDiscreteScheduler)),
    ],
)
def test_every_request_is_what_the_stock_pipeline_draws_alone(
    make: Any, scheduler: Any, rows: list[int]
) -> None:
    pipe = build(make, scheduler)
    add_lora(pipe.unet, 4)
    randomize_lora(pipe.unet, 0.1)
    requests = [*mixed(), Request("noisy", 5, 3, eta=0.7, **SIZE)]
    count_rows(pipe.unet, rows)
    results = list(lcm.serve(pipe, requests))
    # 6 requests, of which 2 take two rows: as many calls as the longest has steps
    assert rows == [
        8,
        7,
        5,
        4,
        1,
        1,
        1,
        1,
    ]
    check(pipe, results, requests)


def test_results_come_as_they_are_finished_and_a_full_batch_takes_requests_as_others_leave(
    rows: list[int],
) -> None:
    pipe = build()
    count_rows(pipe.unet, rows)
    taken: list[int] = []

    def source() -> Iterator[Request]:
        for i, steps in enumerate((4, 1, 2, 1, 1)):
            taken.append(i)
            yield Request(f"picture {i}", i, steps, **SIZE)

    results = []
    for result in lcm.serve(pipe, source(), max_batch=2):
        results.append(result)
        assert len(taken) <= len(results) + 2
    assert [result.index for result in results] == [1, 2, 0, 3, 4]
    assert rows == [2, 2, 2, 2, 1]
    check(pipe, results, list(source()))


def test_when_a_request_joins_and_in_which_company_does_not_change_it() -> None:
    pipe, requests = build(), mixed()
    wanted = [alone(pipe, request) for request in requests]
    for order, steps_between in (([4, 3, 2, 1, 0], 1), ([2, 0, 4, 1, 3], 2)):
        with Engine(pipe, max_batch=3) as engine:
            futures: dict[int, Future[Any]] = {}
            for index in order:
                futures[index] = engine.submit(requests[index])
                for _ in range(steps_between):
                    engine.step()
            while not engine.idle:
                engine.step()
        for index, future in futures.items():
            np.testing.assert_allclose(future.result(timeout=0), wanted[index], atol=2e-5)


def test_sizes_are_batched_apart_and_guided_requests_are_not_overtaken(rows: list[int]) -> None:
    pipe = build()
    count_rows(pipe.unet, rows)
    requests = [
        Request("wide", 0, 2, height=16, width=32, options=NUMBERS),
        Request("small", 1, 3, **SIZE),
        Request("guided", 2, 1, guidance_scale=2.0, **SIZE),
        Request("small", 3, 1, **SIZE),
    ]
    results = list(lcm.serve(pipe, requests, max_batch=2))
    # the fourth would have fitted beside the second, but the third came before it
    assert rows == [
        1,
        1,
        1,
        1,
        1,
        2,
        1,
    ]
    assert [result.index for result in results] == [0, 1, 2, 3]
    check(pipe, results, requests)


def test_a_w_embedding_takes_one_row_however_much_it_is_guided(rows: list[int]) -> None:
    stock = build(lambda: build_sd(unet=build_unet(time_cond_proj_dim=8)))
    pipe = LatentConsistencyModelPipeline(**stock.components, requires_safety_checker=False)
    requests = [
        Request(f"picture {i}", i, 2 + i, guidance_scale=1.0 + 3.0 * i, **SIZE) for i in range(3)
    ]
    count_rows(pipe.unet, rows)
    results = list(lcm.serve(pipe, requests))
    assert rows == [3, 3, 2, 1]
    pipe.set_progress_bar_config(disable=True)
    check(pipe, results, requests)


def test_other_arguments_of_the_call_are_options() -> None:
    pipe = StableDiffusionImg2ImgPipeline(**build().components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    image = Image.new("RGB", (16, 16), "red")
    options = [{**NUMBERS, "image": image, "strength": strength} for strength in (0.5, 1.0)]
    requests = [Request("a star", i, 4, options=given) for i, given in enumerate(options)]
    empty = Request("a star", 0, 1, options={**NUMBERS, "image": image, "strength": 0.5})
    *results, failed = sorted(lcm.serve(pipe, [*requests, empty]), key=lambda result: result.index)
    check(pipe, results, requests)
    assert "strength" in str(failed.error)


def test_an_attached_pipeline_that_begins_with_pictures_is_served_without_warnings(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    pipe = StableDiffusionImg2ImgPipeline(**build_sd().components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    recipe = lcm.attach(pipe, write_adapter(tmp_path, build_sd, make_recipe()))
    options = {**NUMBERS, "image": Image.new("RGB", (16, 16), "red"), "strength": 0.5}
    requests = [Request("a star", i, steps, options=options) for i, steps in enumerate((2, 4))]
    # before any call has set the scheduler of the pipeline itself
    results = list(lcm.serve(pipe, requests, recipe=recipe))
    assert [str(warning.message) for warning in recwarn if "adapter" in str(warning.message)] == []
    check(pipe, results, requests)


def test_half_precision_keeps_its_dtype_and_widens_the_vae_as_stock_sdxl_does() -> None:
    pipe = build(build_sdxl).to(torch.float16)
    pipe.vae.register_to_config(force_upcast=True)
    widths: set[torch.dtype] = set()
    pipe.vae.decoder.register_forward_pre_hook(lambda _, args: widths.add(args[0].dtype))
    requests = [Request(f"picture {i}", i, 1 + i // 2, **SIZE) for i in range(4)]
    results = list(lcm.serve(pipe, requests, max_batch=3))
    assert widths == {torch.float32}
    assert pipe.vae.dtype == pipe.unet.dtype == torch.float16
    check(pipe, results, requests, atol=2e-2)


def test_the_vae_decodes_in_parts(rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcm.inference.serving.engine.PIXELS_AT_ONCE", 2 * 16 * 16)
    pipe, requests = build(), [Request(f"picture {i}", i, 1, **SIZE) for i in range(5)]
    count_rows(pipe.vae.decoder, rows)
    results = list(lcm.serve(pipe, requests))
    assert rows == [2, 2, 1]
    check(pipe, results, requests)


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


def test_defaults_are_those_of_the_recipe(rows: list[int], tmp_path: Path) -> None:
    recipe = make_recipe(
        num_inference_steps=[1, 3], guidance_scale=1.5, scheduler="TCDScheduler", eta=0.4
    )
    pipe = build(scheduler=TCDScheduler)
    count_rows(pipe.unet, rows)
    plain = Request("a ring", 7, **SIZE)
    said = Request("a ring", 7, 3, guidance_scale=1.5, eta=0.4, **SIZE)
    few = FewStepStableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    lcm.attach(few, write_adapter(tmp_path, build_sd, recipe))
    for served, given in ((pipe, recipe), (few, None)):
        (result,) = lcm.serve(served, [plain], recipe=given)
        np.testing.assert_allclose(result.image, alone(served, said), atol=2e-5)
    rows.clear()
    list(lcm.serve(pipe, [plain]))
    assert rows == [1, 1, 1, 1]


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
