"""A file that is attached already gets another weight, and nothing else changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import lcm
from lcm.adapter.names import WEIGHTS_NAME
from tests.support.adapters import OF_EVERY_KIND, everything, make_recipe, write_adapter
from tests.support.worlds import build_sd

ELSEWHERE = make_recipe(scheduler_config={"original_inference_steps": 40})


@pytest.fixture
def file(adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(adapter / WEIGHTS_NAME, tmp_path / "mine.safetensors"))


def scales(pipe: Any) -> dict[str, float]:
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    return {name: float(scale) for name, scale in layer.scaling.items()}


@pytest.mark.parametrize("options", [{}, {"adapter_name": "few", "recipe": ELSEWHERE}])
def test_the_same_file_changes_nothing(file: Path, options: dict[str, Any]) -> None:
    pipe = build_sd()
    before = everything(pipe)
    recipe = lcm.attach(pipe, file, **options)
    attached = everything(pipe)
    (file.parent / "linked.safetensors").symlink_to(file)
    again = (file, str(file), file.parent / "linked.safetensors", os.path.relpath(file))
    for spelling in again:
        assert lcm.attach(pipe, spelling, **options) == recipe
        assert everything(pipe) == attached
    lcm.detach(pipe)
    assert everything(pipe) == before


def test_the_weight_is_that_of_the_last_call(file: Path, style: Path) -> None:
    pipe = build_sd()
    lcm.attach(pipe, {file: 1.0, style: 0.5})
    lcm.attach(pipe, file, 0.5)
    assert scales(pipe) == {"lcm": 0.5, "pixel_art": 0.5}
    lcm.attach(pipe, {style: 0.25, file: 1.0})
    assert scales(pipe) == {"lcm": 1.0, "pixel_art": 0.25}
    with pytest.raises(ValueError, match="'lcm' is named twice"):
        lcm.attach(pipe, {file: 1.0, "lcm": 0.5})
    assert scales(pipe) == {"lcm": 1.0, "pixel_art": 0.25}


def test_after_others_the_same_file_plays_again_with_its_scheduler(
    file: Path, tmp_path: Path
) -> None:
    pipe, other = (
        build_sd(),
        write_adapter(tmp_path / "other", build_sd, ELSEWHERE, targets=OF_EVERY_KIND),
    )
    recipe = lcm.attach(pipe, file)
    lcm.attach(pipe, {"lcm": 0.0, other: 1.0}, adapter_name="other")
    assert lcm.attach(pipe, {file: 1.0, "other": 0.0}) == recipe
    assert pipe.scheduler.config.original_inference_steps == 50
    assert scales(pipe) == {"lcm": 1.0, "other": 0.0}
    pipe.unload_lora_weights()
    lcm.attach(pipe, file)
    assert scales(pipe) == {"lcm": 1.0}


def test_a_file_that_was_written_anew_is_another(file: Path, tmp_path: Path) -> None:
    pipe = build_sd()
    lcm.attach(pipe, file)
    other = write_adapter(
        tmp_path / "other", build_sd, make_recipe(), scale=0.2, targets=OF_EVERY_KIND
    )
    shutil.copy(other / WEIGHTS_NAME, file)
    with pytest.raises(ValueError, match=r"'lcm' is already loaded.*hotswap=True"):
        lcm.attach(pipe, file)
    lcm.attach(pipe, file, hotswap=True)
    held = everything(pipe)
    lcm.attach(pipe, file)
    assert everything(pipe) == held
    with pytest.raises(ValueError, match="has a recipe of its own and is active"):
        lcm.attach(pipe, file, adapter_name="second")
