"""A whole U-Net that does not fit is one line, and the pipeline is as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import lcm
from lcm.adapter.names import RECIPE_NAME
from tests.support.adapters import everything, make_recipe
from tests.support.hostile import is_one_line, pickled, rewrite
from tests.support.worlds import build_sd, build_sdxl_unet, build_unet

pytestmark = pytest.mark.usefixtures("spies")


def whole(folder: Path, unet: Any) -> Path:
    unet.save_pretrained(folder / "unet")
    (folder / "unet" / RECIPE_NAME).write_text(make_recipe().to_json())
    return folder


def spoil(folder: Path, how: str) -> None:
    unet = folder / "unet"
    weights = unet / "diffusion_pytorch_model.safetensors"
    if how == "pickle":
        weights.unlink()
        pickled(unet / "diffusion_pytorch_model.bin")
    elif how == "half":
        state = load_file(weights)
        save_file(dict(list(state.items())[::2]), weights, {"format": "pt"})
    elif how == "no weights":
        weights.unlink()
    elif how == "no configuration":
        (unet / "config.json").unlink()
    else:
        rewrite(unet / "config.json", **json.loads(how))


@pytest.mark.parametrize(
    ("build", "how"),
    [
        (build_unet, "pickle"),
        (build_unet, "half"),
        (build_unet, "no weights"),
        (build_unet, "no configuration"),
        (build_unet, '{"layers_per_block": 2}'),
        (build_unet, '{"attention_head_dim": 0}'),
        (build_unet, '{"_class_name": "AutoencoderKL"}'),
        (build_unet, '{"quantization_config": {"quant_method": "gguf"}}'),
        (lambda: build_unet(layers_per_block=2), '{"layers_per_block": 1}'),
        (lambda: build_unet(in_channels=9), "{}"),
        (lambda: build_unet(cross_attention_dim=24), "{}"),
        (build_sdxl_unet, "{}"),
    ],
)
def test_a_whole_unet_that_does_not_fit_is_one_line_and_nothing_changes(
    tmp_path: Path, build: Callable[[], Any], how: str
) -> None:
    folder = whole(tmp_path / "full", build())
    spoil(folder, how)
    pipe = build_sd()
    before, unet = everything(pipe), pipe.unet
    with pytest.raises((ValueError, OSError)) as caught:
        lcm.attach(pipe, folder)
    assert is_one_line(caught.value)
    assert str(folder) in str(caught.value)
    assert pipe.unet is unet
    assert everything(pipe) == before
