"""Adapter files that others write: what is read is what was trained, and plays alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from safetensors.torch import save_file

from lcm.adapter.names import WEIGHTS_NAME
from lcm.formats.factors import Adapter
from lcm.formats.read import read_adapter
from lcm.formats.write import save
from tests.support.adapters import (
    adapted,
    output,
    public_sdxl_script,
    state_of,
    stock_kohya,
    stock_without_metadata,
)
from tests.support.layouts import equal_deltas, peft_folder, truth
from tests.support.worlds import build_sd, build_sdxl, build_sdxl_unet

Writer = Callable[[Any, Path], None]


def stock_with_metadata(unet: Any, folder: Path) -> None:
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=state_of(unet), **_collate_lora_metadata({"unet": unet})
    )


def stock_model_only(unet: Any, folder: Path) -> None:
    unet.save_lora_adapter(folder, weight_name=WEIGHTS_NAME)


def kohya_of_peft_keys(unet: Any, folder: Path) -> None:
    save_file(
        convert_state_dict_to_kohya(state_of(unet, "base_model.model.")), folder / WEIGHTS_NAME
    )


def kohya_of_prefixed_peft_keys(unet: Any, folder: Path) -> None:
    save_file(
        convert_state_dict_to_kohya(state_of(unet, "unet.base_model.model.")), folder / WEIGHTS_NAME
    )


def kohya_without_prefix(unet: Any, folder: Path) -> None:
    save_file(convert_state_dict_to_kohya(state_of(unet)), folder / WEIGHTS_NAME)


def public_sd_script(unet: Any, folder: Path) -> None:
    """PEFT's prefix goes into the pipeline's own writer."""
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=state_of(unet, "base_model.model.")
    )


def public_sdxl_validation(unet: Any, folder: Path) -> None:
    save_file(convert_state_dict_to_diffusers(state_of(unet)), folder / WEIGHTS_NAME)


def oldest_diffusers(unet: Any, folder: Path) -> None:
    state = {}
    for key, value in state_of(unet, "unet.").items():
        old = key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up.")
        state[re.sub(r"\.(to_\w+?)(?:\.0)?\.lora\.", r".processor.\1_lora.", old)] = value
    save_file(state, folder / WEIGHTS_NAME)


def compiled_and_parallel(unet: Any, folder: Path) -> None:
    state = {
        key.replace(".transformer_blocks.0.", ".transformer_blocks.0._orig_mod."): v
        for key, v in state_of(unet).items()
    }
    save_file(
        {f"module._orig_mod.{key}": value for key, value in state.items()}, folder / WEIGHTS_NAME
    )


def with_adapter_name(unet: Any, folder: Path) -> None:
    save_file(
        {
            f"unet.{name}": value.detach()
            for name, value in unet.state_dict().items()
            if ".lora_" in name
        },
        folder / WEIGHTS_NAME,
    )


def twice_in_one_file(unet: Any, folder: Path) -> None:
    both = {**state_of(unet, "unet."), **convert_state_dict_to_kohya(state_of(unet, "unet."))}
    save_file({key: value.clone() for key, value in both.items()}, folder / WEIGHTS_NAME)


KEEPS_ALPHA = {
    stock_with_metadata: "diffusers",
    stock_model_only: "model only",
    peft_folder: "peft",
}
ALPHA_IS_RANK = {
    stock_without_metadata: "diffusers",
    stock_kohya: "kohya",
    kohya_of_peft_keys: None,
    kohya_of_prefixed_peft_keys: None,
    kohya_without_prefix: None,
    public_sd_script: None,
    public_sdxl_script: None,
    public_sdxl_validation: None,
    oldest_diffusers: "old diffusers",
    compiled_and_parallel: None,
    with_adapter_name: None,
    twice_in_one_file: None,
}


def check_reading(writer: Writer, layout: str | None, unet: Any, folder: Path) -> Adapter:
    writer(unet, folder)
    adapter = read_adapter(folder)
    equal_deltas(adapter, truth(unet))
    if layout is not None:
        assert list(adapter.layouts) == [layout]
    return adapter


def check_playing(adapter: Adapter, unet: Any, folder: Path, pipe: Any) -> None:
    """Once written by us, stock diffusers plays it as PEFT does."""
    save(adapter, folder / "repaired" / WEIGHTS_NAME, torch.float32)
    pipe.load_lora_weights(folder / "repaired", weight_name=WEIGHTS_NAME)
    assert (output(pipe.unet) - output(unet)).abs().max() < 2e-5 * output(unet).abs().max()


@pytest.mark.parametrize(
    ("writer", "layout"),
    [*KEEPS_ALPHA.items(), *ALPHA_IS_RANK.items()],
    ids=lambda w: getattr(w, "__name__", ""),
)
def test_files_that_others_write_are_read_as_trained(
    trained: Any, writer: Writer, layout: str | None, tmp_path: Path
) -> None:
    check_reading(writer, layout, trained, tmp_path)


@pytest.mark.parametrize(
    ("writer", "layout"), KEEPS_ALPHA.items(), ids=lambda w: getattr(w, "__name__", "")
)
def test_ranks_and_alphas_that_differ_are_read_as_trained(
    mixed: Any, writer: Writer, layout: str | None, tmp_path: Path
) -> None:
    check_reading(writer, layout, mixed, tmp_path)


def test_ranks_and_alphas_that_differ_play_once_repaired(mixed: Any, tmp_path: Path) -> None:
    check_playing(
        check_reading(stock_with_metadata, "diffusers", mixed, tmp_path),
        mixed,
        tmp_path,
        build_sd(),
    )


@pytest.mark.parametrize("writer", [public_sd_script, public_sdxl_script])
def test_files_of_the_public_scripts_play_once_repaired(
    trained: Any, writer: Writer, tmp_path: Path
) -> None:
    check_playing(check_reading(writer, None, trained, tmp_path), trained, tmp_path, build_sd())


def test_a_file_of_the_public_sdxl_script_plays_once_repaired(tmp_path: Path) -> None:
    unet = adapted(build_sdxl_unet())
    check_playing(
        check_reading(public_sdxl_script, None, unet, tmp_path), unet, tmp_path, build_sdxl()
    )
