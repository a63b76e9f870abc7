"""Continuous batching: every request is drawn as the pipeline alone draws it, and requests share
calls of the U-Net."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
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
from lcm.pipelines import FewStepStableDiffusionPipeline
from tests.support.adapters import make_recipe, write_adapter
from tests.support.requests import NUMBERS, SIZE, alone, build, check, count_rows, mixed
from tests.support.worlds import build_sd, build_sdxl, build_unet, randomize_lora


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
    pipe(requests[0].prompt, num_inference_steps=1, output_type="np", **SIZE)
    stock = set(widths)  # all of float32, but for older releases, which widen what follows
    widths.clear()
    results = list(lcm.serve(pipe, requests, max_batch=3))
    assert widths == stock
    assert pipe.vae.dtype == pipe.unet.dtype == torch.float16
    check(pipe, results, requests, atol=2e-2)


def test_the_vae_decodes_in_parts(rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcm.inference.serving.engine.PIXELS_AT_ONCE", 2 * 16 * 16)
    pipe, requests = build(), [Request(f"picture {i}", i, 1, **SIZE) for i in range(5)]
    count_rows(pipe.vae.decoder, rows)
    results = list(lcm.serve(pipe, requests))
    assert rows == [2, 2, 1]
    check(pipe, results, requests)


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
