"""What the tests of pipelines draw, and with what."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from tests.support.worlds import build_sd, build_unet

PICTURE = torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)


MASK = (torch.arange(256).reshape(1, 1, 16, 16) % 16 < 8).float()


BASE = {"num_inference_steps": 2, "guidance_scale": 2.0}
"""The arguments of a call that is guided."""
FEW = {"num_inference_steps": 2, "guidance_scale": 1.0}


def stock(pipeline_class: Any, pipe: Any, **others: Any) -> Any:
    """The networks of a text-to-image pipeline in another."""
    options: dict[str, Any] = (
        {"requires_safety_checker": False} if "safety_checker" in pipe.components else {}
    )
    made = pipeline_class(**{**pipe.components, **options, **others})
    made.set_progress_bar_config(disable=True)
    return made


def nine_channels() -> Any:
    return build_sd(unet=build_unet(in_channels=9))


SIZE: dict[str, Any] = {"height": 16, "width": 16}


def draw(pipe: Any, **options: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    images: np.ndarray = pipe(
        "a red star", generator=torch.Generator().manual_seed(5), output_type="np", **options
    ).images
    return images


class EnoughError(Exception):
    """Raised at the end of the first step of a call of which the rest is not needed."""


def begin(pipe: Any, **options: Any) -> None:
    """The call of `draw` up to the end of its first step."""

    def stop(*_: Any) -> None:
        raise EnoughError

    with suppress(EnoughError):
        draw(pipe, callback_on_step_end=stop, **options)
        raise AssertionError("the call made no step")


def said(pipe: Any, **options: Any) -> list[str]:
    """The warnings of one call, all of which come before its first step, those of the libraries
    left out.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        begin(pipe, **options)
    assert all(warning.filename.endswith(".py") for warning in caught)
    return [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]


def weights(pipe: Any) -> dict[str, torch.Tensor]:
    models = {
        name: model for name, model in pipe.components.items() if isinstance(model, torch.nn.Module)
    }
    return {
        f"{name}.{key}": value.clone()
        for name, model in models.items()
        for key, value in model.state_dict().items()
    }


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert list(one) == list(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
