"""Requests, and what the stock pipeline draws of each alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import LCMScheduler

from lcm import Request
from tests.support.worlds import build_sd

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


def count_rows(module: torch.nn.Module, rows: list[int]) -> None:
    """Writes down the batch of every call."""
    module.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
