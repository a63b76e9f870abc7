"""Adapters of tiny networks, in the spellings of several programs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor

import lcm
from lcm.adapter.export import export_lora, probe
from lcm.adapter.lora import add_lora
from lcm.adapter.names import LORA_TARGETS, WEIGHTS_NAME
from lcm.adapter.recipe import Recipe
from tests.support.worlds import build_sd, randomize_lora


def make_recipe(family: str = "sd", width: int = 16, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "objective": "lcm",
        "family": family,
        "cross_attention_dim": width,
        "prediction_type": "epsilon",
        "zero_terminal_snr": False,
        "scheduler": "LCMScheduler",
        "scheduler_config": {
            "original_inference_steps": 50,
            "timestep_scaling": 10.0,
            "rescale_betas_zero_snr": False,
        },
        "trained_guidance_scale": [7.5, 7.5],
        "teacher": "some/teacher",
        "resolution": 16,
    }
    return Recipe(**{**values, **changes})


OF_EVERY_KIND = ("to_q", "to_v", "ff.net.0.proj", "conv1")
"""Layers of attention, others that are linear, and convolutions, in all blocks."""


def write_adapter(
    folder: Path,
    build: Any,
    recipe: lcm.Recipe,
    rank: int = 4,
    scale: float = 0.1,
    targets: Sequence[str] = LORA_TARGETS,
) -> Path:
    unet = build().unet
    add_lora(unet, rank, targets=tuple(targets))
    randomize_lora(unet, scale)
    export_lora(unet, folder / WEIGHTS_NAME, recipe)
    return folder


def everything(pipe: Any) -> dict[str, Any]:
    """What an adapter can change in a pipeline."""
    found: dict[str, Any] = {
        "scheduler": id(pipe.scheduler),
        "listed": pipe.get_list_adapters(),
        "active": pipe.get_active_adapters(),
    }
    for part in ("unet", "text_encoder"):
        model = getattr(pipe, part)
        found[part] = [
            (name, id(module), module.training) for name, module in model.named_modules()
        ]
        found[f"{part} tensors"] = [
            (name, id(p), p.requires_grad) for name, p in model.named_parameters()
        ]
        adapted = {
            name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)
        }
        found[f"{part} adapters"] = {
            name: (list(m.active_adapters), m.scaling, m.r, m.lora_alpha)
            for name, m in adapted.items()
        }
    return copy.deepcopy(found)


State = dict[str, Tensor]


def adapted(unet: Any, alpha: float = 4, **config: Any) -> Any:
    unet.add_adapter(LoraConfig(r=4, lora_alpha=alpha, target_modules=list(LORA_TARGETS), **config))  # type: ignore[arg-type]
    randomize_lora(unet)
    return unet


def output(unet: Any) -> Tensor:
    with torch.no_grad():
        sample: Tensor = unet(**probe(unet)).sample
    return sample


def state_of(unet: Any, prefix: str = "") -> State:
    return {
        f"{prefix}{key}": value.contiguous()
        for key, value in get_peft_model_state_dict(unet).items()
    }


def stock_without_metadata(unet: Any, folder: Path) -> None:
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state_of(unet))


def stock_kohya(unet: Any, folder: Path) -> None:
    save_file(convert_state_dict_to_kohya(state_of(unet, "unet.")), folder / WEIGHTS_NAME)


def public_sdxl_script(unet: Any, folder: Path) -> None:
    """Attention gets old keys, all else new ones."""
    converted = convert_state_dict_to_diffusers(state_of(unet))
    StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=converted)


def build_of(style: Path) -> Any:
    pipe = build_sd()
    pipe.load_lora_weights(style.parent, weight_name=style.name, adapter_name="early")
    return pipe


def stock_load(pipe: Any, path: str | Path, adapter_name: str | None = None) -> None:
    """`load_lora_weights` of a file, or the one in a folder, named as every release of diffusers
    takes it without a network.
    """
    path = Path(path, WEIGHTS_NAME) if Path(path).is_dir() else Path(path)
    pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=adapter_name)


def adapt(encoder: Any, config: LoraConfig, adapter_name: str = "default") -> None:
    """What `add_adapter` of transformers does, some of whose releases ask for a PEFT that is not
    there.
    """
    inject_adapter_in_model(config, encoder, adapter_name)
    encoder._hf_peft_config_loaded = True
