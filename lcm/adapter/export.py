"""Writing the trained adapter, in the layout that every program reads, and proving that it reloads
as what was trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lcm.adapter.files import AdapterFile, save_tensors
from lcm.adapter.kohya import family_header, layer_tensors, stem
from lcm.adapter.lora import (
    base_state,
    lora_modules,
    lora_parameters,
    swapped,
)
from lcm.adapter.recipe import RECIPE_KEY, Recipe
from lcm.system.atomic import replacing
from lcm.system.device import without_tf32
from lcm.system.text import plain
from lcm.system.transfers import fetched


def kohya_state_dict(unet: Any, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """The adapter in the layout of the official LCM-LoRAs, on the CPU: the matrices in `dtype`,
    the alphas in float32.
    """
    state: dict[str, Tensor] = {}
    for name, layer in lora_modules(unet).items():
        down, up = (
            fetched(part["default"].weight.to(dtype)) for part in (layer.lora_A, layer.lora_B)
        )
        state |= layer_tensors(stem("unet", name), down, up, layer.lora_alpha["default"])
    return state


def header(unet: Any, recipe: Recipe, training: dict[str, str]) -> dict[str, str]:
    """The file's metadata: our recipe, SAI ModelSpec keys, and the `ss_*` keys by which web UIs
    tell SD from SDXL.
    """
    rank, alpha = next(
        (layer.r["default"], layer.lora_alpha["default"]) for layer in lora_modules(unet).values()
    )
    return {
        "format": "pt",
        RECIPE_KEY: recipe.to_json(),
        **family_header(
            recipe.family, recipe.cross_attention_dim, recipe.prediction_type, rank, alpha
        ),
        "modelspec.implementation": "diffusers",
        "modelspec.title": plain(
            f"{recipe.objective.upper()}-LoRA of {Path(recipe.public().teacher).name}"
        ),
        "modelspec.resolution": f"{recipe.resolution}x{recipe.resolution}",
        "modelspec.prediction_type": recipe.prediction_type,
        "modelspec.usage_hint": f"{recipe.scheduler}, "
        f"{min(recipe.num_inference_steps)}-{max(recipe.num_inference_steps)} "
        f"steps, guidance_scale {recipe.guidance_scale}",
        **training,
    }


def check_finite(state: dict[str, Tensor], what: str, dtype: torch.dtype) -> None:
    """Raises ValueError for values that do not fit the `dtype` they are in; `what` they are."""
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{len(broken)} {what} are not finite in {dtype}, the first is {broken[0]}; nothing "
            "was written"
        )


def export_lora(
    unet: Any,
    path: Path,
    recipe: Recipe,
    *,
    training: dict[str, str] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes the adapter, complete or not at all. Raises ValueError when a value does not fit
    `dtype`.
    """
    state = kohya_state_dict(unet, dtype)
    check_finite(state, "adapter tensors", dtype)
    with replacing(path) as partial:
        save_tensors(state, partial, metadata=header(unet, recipe, training or {}))


def fresh_with_lora(unet: Any, path: Path, pipeline_class: Any) -> Any:
    """A new U-Net that shares the frozen weights of `unet` and gets the adapter file through the
    stock loader.
    """
    with torch.device("meta"):
        fresh = type(unet).from_config(unet.config)
    fresh.load_state_dict(base_state(unet), assign=True)
    fresh.requires_grad_(False).eval()
    state, alphas, _ = pipeline_class.lora_state_dict(
        str(path.parent),
        weight_name=path.name,
        unet_config=fresh.config,
        return_lora_metadata=True,
        use_safetensors=True,
    )
    pipeline_class.load_lora_into_unet(
        state, network_alphas=alphas, unet=fresh, adapter_name="default"
    )
    return fresh


def probe(unet: Any) -> dict[str, Any]:
    """Random inputs that fit the U-Net's configuration, always the same; no larger than a proof
    needs, whatever the resolution: 2 x 2 latents at its narrowest, where attention to a single one
    would not depend on queries and keys.
    """
    config = unet.config
    parameter = next(unet.parameters())
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(parameter)

    size = 2 * 2 ** (len(config.down_block_types) - 1)
    width = (
        config.cross_attention_dim
        if isinstance(config.cross_attention_dim, int)
        else config.cross_attention_dim[0]
    )
    inputs: dict[str, Any] = {
        "sample": noise(2, config.in_channels, size, size),
        "timestep": torch.tensor([999, 259], device=parameter.device),
        "encoder_hidden_states": noise(2, 77, width),
    }
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {
            "text_embeds": noise(2, pooled),
            "time_ids": torch.full((2, 6), 64).to(parameter),
        }
    return inputs


class ExportError(RuntimeError):
    """A written adapter that does not reload as what was trained."""


@torch.no_grad()
def verify_export(unet: Any, path: Path, pipeline_class: Any) -> None:
    """Reloads `path` with the stock loader and compares it with the adapter in training.

    Compared are the adapted layers, every tensor, every scale and the output on a fixed input.
    Raises ExportError on any difference beyond the rounding of the file; the outputs are compared
    with the student rounded alike.
    """
    fresh = fresh_with_lora(unet, path, pipeline_class)
    trained, loaded = lora_modules(unet), lora_modules(fresh)
    if set(trained) != set(loaded):
        missing = sorted(set(trained) ^ set(loaded))
        raise ExportError(
            f"{path} reloads {len(loaded)} of {len(trained)} adapted layers; first difference: "
            f"{missing[0]}"
        )
    for name, layer in trained.items():
        if abs(layer.scaling["default"] - loaded[name].scaling["default"]) > 1e-6:
            raise ExportError(
                f"{path}: scale {loaded[name].scaling['default']} instead of "
                f"{layer.scaling['default']} in layer {name}"
            )
        for part in ("lora_A", "lora_B"):
            here = getattr(layer, part)["default"].weight.float()
            there = getattr(loaded[name], part)["default"].weight.float()
            if not torch.allclose(here, there, rtol=1e-2, atol=1e-6):
                raise ExportError(f"{path}: {part} of layer {name} differs after reloading")
    inputs, parameters, dtype = probe(unet), lora_parameters(unet), AdapterFile.read(path).dtype
    rounded = [p.data.to(dtype).to(p.dtype) for p in parameters]
    with swapped(parameters, rounded), without_tf32():
        student, reloaded = unet(**inputs).sample.float(), fresh(**inputs).sample.float()
    # a low-precision base rounds on its own
    tolerance = 1e-4 if inputs["sample"].dtype == torch.float32 else 5e-2
    error = (student - reloaded).abs().max().item() / max(student.abs().max().item(), 1e-12)
    if not error <= tolerance:
        raise ExportError(
            f"{path}: the reloaded adapter's output differs by {error:.2e} of its range, allowed "
            f"is {tolerance}"
        )
