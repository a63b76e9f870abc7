"""LoRA adapters: put them on a U-Net, write them to one file that loads everywhere, prove that it did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lcm.disk import replacing
from lcm.lora import LAYERS, lower_before_passes
from lcm.recipe import RECIPE_KEY, Recipe

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""How the names of files end that can run code when they are read: none is ever opened."""

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
"""The networks of a pipeline that can have adapters, by name."""

LORA_TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
    "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
)  # fmt: skip
"""Name endings of the adapted layers, those of the official LCM-LoRAs: 278 modules on SD 1.5, 788 on SDXL."""


KOHYA_PARTS = {"lora_A": "lora_down", "lora_B": "lora_up"}


def layers_named(unet: Any, targets: tuple[str, ...] | list[str]) -> set[str]:
    """The layers of a U-Net without adapters whose names are or end in one of `targets`: those that `add_lora` adapts.

    Raises ValueError for a target that matches no layer, or something else.
    """
    layers: set[str] = set()
    for target in targets:
        matched = {name: module for name, module in unet.named_modules() if f".{name}".endswith(f".{target}")}
        others = [name for name, module in matched.items() if not isinstance(module, nn.Linear | nn.Conv2d)]
        if len(others) == len(matched):
            raise ValueError(f"lora_target_modules: no linear or conv layer of the U-Net is named {target!r}")
        if others:
            raise ValueError(f"lora_target_modules: {target!r} also names {others[0]}, which is no linear or conv layer; say more")
        layers |= matched.keys()
    return layers


def add_lora(
    unet: Any,
    rank: int,
    alpha: float | None = None,
    targets: tuple[str, ...] | list[str] = LORA_TARGETS,
    dropout: float = 0.0,
) -> list[nn.Parameter]:
    """Freezes `unet`, adds one adapter in float32 and returns its parameters. B starts at zero: no effect yet.

    One rank and one alpha (default: the rank) for every layer, since kohya-layout files with mixed attention ranks or
    alphas load wrongly, and silently, in diffusers. Raises ValueError for a target as `layers_named` does.
    """
    if rank < 1:
        raise ValueError(f"lora_rank must be a positive integer; got {rank}")
    if alpha is not None and alpha <= 0:
        raise ValueError(f"lora_alpha must be positive (the adapter's strength is alpha / rank); got {alpha}")
    layers_named(unet, targets)
    unet.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=list(targets), lora_dropout=dropout)
    config._register_custom_module(LAYERS)
    unet.add_adapter(config)
    lower_before_passes(unet)
    parameters = lora_parameters(unet)
    for parameter in parameters:
        parameter.data = parameter.data.float()
    return parameters


def lora_parameters(unet: nn.Module) -> list[nn.Parameter]:
    """The adapter's tensors, in module order."""
    return [parameter for name, parameter in unet.named_parameters() if ".lora_" in name]


def lora_modules(unet: nn.Module) -> dict[str, LoraLayer]:
    """Adapted layers by name."""
    return {name: module for name, module in unet.named_modules() if isinstance(module, LoraLayer)}


def kohya_state_dict(unet: Any, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """The adapter as kohya keys with diffusers block names: lora_unet_<module>.lora_down.weight, .lora_up.weight, .alpha.

    This layout is what the official LCM-LoRAs have; diffusers, ComfyUI and A1111 read it, and it carries alpha.
    """
    state: dict[str, Tensor] = {}
    for key, value in get_peft_model_state_dict(unet).items():
        module, part = key.removesuffix(".weight").rsplit(".", 1)
        name = "lora_unet_" + module.replace(".", "_")
        state[f"{name}.{KOHYA_PARTS[part]}.weight"] = value.detach().to("cpu", dtype).contiguous()
    for module, layer in lora_modules(unet).items():
        state[f"lora_unet_{module.replace('.', '_')}.alpha"] = torch.tensor(float(layer.lora_alpha["default"]))
    return state


def family_header(family: str, width: int, prediction_type: str, rank: int, alpha: float) -> dict[str, str]:
    """The keys by which web UIs tell SD 1.x, SD 2.x and SDXL apart, and those of rank and alpha."""
    is_sdxl, is_v2 = family == "sdxl", family == "sd" and width == 1024
    version, architecture = ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base") if is_sdxl else ("sd_v1", "stable-diffusion-v1")
    if is_v2:
        v = "-v" if prediction_type == "v_prediction" else ""
        version, architecture = f"sd_v2{v}", "stable-diffusion-v2-768-v" if v else "stable-diffusion-v2-512"
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "ss_base_model_version": version,
        "ss_v2": str(is_v2),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
    }


def header(unet: Any, recipe: Recipe, training: dict[str, str]) -> dict[str, str]:
    """The file's metadata: our recipe, SAI ModelSpec keys, and the `ss_*` keys by which web UIs tell SD from SDXL."""
    rank, alpha = next((layer.r["default"], layer.lora_alpha["default"]) for layer in lora_modules(unet).values())
    return {
        "format": "pt",
        RECIPE_KEY: recipe.to_json(),
        **family_header(recipe.family, recipe.cross_attention_dim, recipe.prediction_type, rank, alpha),
        "modelspec.implementation": "diffusers",
        "modelspec.title": f"{recipe.objective.upper()}-LoRA of {Path(recipe.teacher).name}",
        "modelspec.resolution": f"{recipe.resolution}x{recipe.resolution}",
        "modelspec.prediction_type": recipe.prediction_type,
        "modelspec.usage_hint": f"{recipe.scheduler}, {min(recipe.num_inference_steps)}-{max(recipe.num_inference_steps)} "
        f"steps, guidance_scale {recipe.guidance_scale}",
        "ss_output_name": Path(WEIGHTS_NAME).stem,
        **training,
    }


def export_lora(
    unet: Any, path: Path, recipe: Recipe, *, training: dict[str, str] | None = None, dtype: torch.dtype = torch.float16
) -> None:
    """Writes the adapter, complete or not at all. Raises ValueError when a value does not fit `dtype`."""
    state = kohya_state_dict(unet, dtype)
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{len(broken)} adapter tensors are not finite in {dtype}, the first is {broken[0]}; nothing was written")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file(state, partial, metadata=header(unet, recipe, training or {}))


def read_header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises ValueError when it is damaged or none."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or a damaged one ({error}); download or export it again") from error


def tensor_names(path: Path) -> list[str]:
    """The tensors in a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def stored_dtype(path: Path) -> torch.dtype:
    """The precision of an adapter file's matrices."""
    with safe_open(path, framework="pt") as file:
        name = next(key for key in file.keys() if key.endswith(".weight"))  # noqa: SIM118 - not a mapping
        dtype: torch.dtype = file.get_tensor(name).dtype
    return dtype


def base_state(unet: Any) -> dict[str, Tensor]:
    """The tensors of a U-Net without its adapter, if it has one, under the names that they then have."""
    return {name.replace(".base_layer.", "."): value for name, value in unet.state_dict().items() if ".lora_" not in name}


def fresh_with_lora(unet: Any, path: Path, pipeline_class: Any) -> Any:
    """A new U-Net that shares the frozen weights of `unet` and gets the adapter file through the stock loader."""
    with torch.device("meta"):
        fresh = type(unet).from_config(unet.config)
    fresh.load_state_dict(base_state(unet), assign=True)
    fresh.requires_grad_(False).eval()
    state, alphas, _ = pipeline_class.lora_state_dict(str(path), unet_config=fresh.config, return_lora_metadata=True)
    pipeline_class.load_lora_into_unet(state, network_alphas=alphas, unet=fresh, adapter_name="default")
    return fresh


def probe(unet: Any) -> dict[str, Any]:
    """Random inputs that fit the U-Net's configuration, always the same."""
    config = unet.config
    parameter = next(unet.parameters())
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(parameter)

    size = min(int(config.sample_size or 64), 64)
    width = config.cross_attention_dim if isinstance(config.cross_attention_dim, int) else config.cross_attention_dim[0]
    inputs: dict[str, Any] = {
        "sample": noise(2, config.in_channels, size, size),
        "timestep": torch.tensor([999, 259], device=parameter.device),
        "encoder_hidden_states": noise(2, 77, width),
    }
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {"text_embeds": noise(2, pooled), "time_ids": torch.full((2, 6), 64).to(parameter)}
    return inputs


class ExportError(RuntimeError):
    """A written adapter that does not reload as what was trained."""


@contextmanager
def swapped(parameters: list[nn.Parameter], values: list[Tensor]) -> Iterator[None]:
    """Other values stand in the network inside the block; pointers are exchanged, nothing is copied."""
    live = [p.data for p in parameters]
    try:
        for p, value in zip(parameters, values, strict=True):
            p.data = value
        yield
    finally:
        for p, data in zip(parameters, live, strict=True):
            p.data = data


@torch.no_grad()
def verify_export(unet: Any, path: Path, pipeline_class: Any) -> None:
    """Reloads `path` with the stock loader and compares it with the adapter in training.

    Compared are the adapted layers, every tensor, every scale and the output on a fixed input. Raises ExportError on any
    difference beyond the rounding of the file; the outputs are compared with the student rounded alike.
    """
    fresh = fresh_with_lora(unet, path, pipeline_class)
    trained, loaded = lora_modules(unet), lora_modules(fresh)
    if set(trained) != set(loaded):
        missing = sorted(set(trained) ^ set(loaded))
        raise ExportError(f"{path} reloads {len(loaded)} of {len(trained)} adapted layers; first difference: {missing[0]}")
    for name, layer in trained.items():
        if abs(layer.scaling["default"] - loaded[name].scaling["default"]) > 1e-6:
            raise ExportError(
                f"{path}: scale {loaded[name].scaling['default']} instead of {layer.scaling['default']} in layer {name}"
            )
        for part in ("lora_A", "lora_B"):
            here = getattr(layer, part)["default"].weight.float()
            there = getattr(loaded[name], part)["default"].weight.float()
            if not torch.allclose(here, there, rtol=1e-2, atol=1e-6):
                raise ExportError(f"{path}: {part} of layer {name} differs after reloading")
    inputs, parameters, dtype = probe(unet), lora_parameters(unet), stored_dtype(path)
    with swapped(parameters, [p.data.to(dtype).to(p.dtype) for p in parameters]):
        student, reloaded = unet(**inputs).sample.float(), fresh(**inputs).sample.float()
    tolerance = 1e-4 if inputs["sample"].dtype == torch.float32 else 5e-2  # a low-precision base rounds on its own
    error = (student - reloaded).abs().max().item() / max(student.abs().max().item(), 1e-12)
    if not error <= tolerance:
        raise ExportError(f"{path}: the reloaded adapter's output differs by {error:.2e} of its range, allowed is {tolerance}")
