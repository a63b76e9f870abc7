"""Hot-swapping is attaching the other adapter, without compiling anything again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file

import lcm
from lcm.adapter.files import read_header
from lcm.adapter.names import WEIGHTS_NAME
from tests.support.adapters import OF_EVERY_KIND, everything, make_recipe, write_adapter
from tests.support.pipelines import FEW, SIZE, assert_same_weights, draw, weights
from tests.support.worlds import build_sd


def test_an_adapter_with_a_part_for_the_text_encoder_is_not_swapped(
    adapter: Path, style: Path
) -> None:
    """The part would stay: diffusers swaps the U-Net's alone."""
    pipe = build_sd()
    lcm.attach(pipe, style, recipe=make_recipe())
    held = weights(pipe), everything(pipe)
    with pytest.raises(
        ValueError, match="has a part for the text encoders, which cannot be swapped"
    ):
        lcm.attach(pipe, adapter, hotswap=True)
    assert_same_weights(held[0], weights(pipe))
    assert everything(pipe) == held[1]


def test_hot_swapping_is_attaching_the_other(adapter: Path, style: Path, tmp_path: Path) -> None:
    recipe = make_recipe(scheduler_config={"original_inference_steps": 40})
    other = write_adapter(tmp_path / "other", build_sd, recipe, scale=0.2, targets=OF_EVERY_KIND)
    large = write_adapter(tmp_path / "large", build_sd, recipe, rank=8, targets=OF_EVERY_KIND)
    pipe, fresh = build_sd(), build_sd()
    before = everything(pipe)
    with pytest.raises(ValueError, match="attach the first one without it"):
        lcm.attach(pipe, adapter, hotswap=True)
    lcm.attach(pipe, {adapter: 1.0, style: 0.5})
    parameters = {name: id(parameter) for name, parameter in pipe.unet.named_parameters()}
    for unfit, message in ((large, "rank 8"), (style, "pass its file")):
        held = weights(pipe), everything(pipe)
        with pytest.raises(ValueError, match=message):
            lcm.attach(pipe, unfit, hotswap=True)
        assert_same_weights(held[0], weights(pipe))
        assert everything(pipe) == held[1]
    lcm.attach(pipe, other, 0.9, hotswap=True)
    lcm.attach(fresh, {other: 0.9, style: 0.5})
    assert {name: id(parameter) for name, parameter in pipe.unet.named_parameters()} == parameters
    assert pipe.scheduler.config.original_inference_steps == 40
    assert np.array_equal(draw(pipe, **SIZE, **FEW), draw(fresh, **SIZE, **FEW))
    lcm.detach(pipe)
    assert everything(pipe) == before


def test_a_swap_that_does_not_fit_leaves_the_adapter_as_it_was(
    adapter: Path, tmp_path: Path
) -> None:
    state = load_file(adapter / WEIGHTS_NAME)
    for key in [key for key in state if "mid_block_attentions_0" in key]:
        state[key.replace("attentions_0", "attentions_7")] = state[key].clone()
    save_file(state, tmp_path / "x.safetensors", metadata=read_header(adapter / WEIGHTS_NAME))
    pipe = build_sd()
    lcm.attach(pipe, adapter, 0.5)
    held = weights(pipe), everything(pipe)
    with pytest.raises(ValueError, match="does not fit this pipeline") as caught:
        lcm.attach(pipe, tmp_path / "x.safetensors", hotswap=True)
    assert len(str(caught.value)) < 600  # not the names of all layers
    assert_same_weights(held[0], weights(pipe))
    assert everything(pipe) == held[1]


@pytest.mark.skipif(Version(peft.__version__) < Version("0.20"), reason="PEFT compiles it again")
def test_a_compiled_block_is_not_compiled_again_for_a_hot_swap(
    adapter: Path, tmp_path: Path
) -> None:
    other = write_adapter(tmp_path, build_sd, make_recipe(), rank=2, scale=0.2)
    pipe, fresh = build_sd(), build_sd()
    pipe.enable_lora_hotswap(target_rank=4)
    lcm.attach(pipe, other)
    # when to compile again does not depend on the backend
    pipe.unet.mid_block.compile(backend="eager", fullgraph=True)
    draw(pipe, **SIZE, **FEW)
    with torch._dynamo.config.patch(error_on_recompile=True):
        lcm.attach(pipe, adapter, 0.7, hotswap=True)
        swapped = draw(pipe, **SIZE, **FEW)
        lcm.attach(pipe, {"lcm": 0.5})
        weaker = draw(pipe, **SIZE, **FEW)
    lcm.attach(fresh, adapter, 0.7)
    np.testing.assert_allclose(swapped, draw(fresh, **SIZE, **FEW), atol=1e-5)
    lcm.attach(fresh, {"lcm": 0.5})
    np.testing.assert_allclose(weaker, draw(fresh, **SIZE, **FEW), atol=1e-5)


def test_a_compiled_wrapping_stays(adapter: Path) -> None:
    pipe = build_sd()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    before, wrapped = weights(pipe), pipe.unet
    lcm.attach(pipe, adapter, 0.5)
    layer = wrapped._orig_mod.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    assert (layer.scaling, list(layer.active_adapters)) == ({"lcm": 0.5}, ["lcm"])
    lcm.detach(pipe)
    assert pipe.unet is wrapped
    assert_same_weights(before, weights(pipe))
