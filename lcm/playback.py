"""Playing an adapter: read its recipe, attach it to a stock pipeline, set the scheduler it was trained for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from torch import nn

from lcm.adapters import WEIGHTS_NAME, lora_modules, read_header, tensor_names
from lcm.full import is_full, load_unet, read_full_recipe
from lcm.recipe import RECIPE_KEY, UNCLIPPED, Recipe

SCHEDULERS = ("LCMScheduler", "TCDScheduler", "DDIMScheduler")


def locate(path: str | os.PathLike[str]) -> Path:
    """The adapter file behind a file, an output folder or a hub id. Raises FileNotFoundError that says what was tried."""
    local = Path(path)
    if local.is_file():
        return local
    if local.is_dir():
        if (local / WEIGHTS_NAME).is_file():
            return local / WEIGHTS_NAME
        raise FileNotFoundError(f"the folder {local} holds no {WEIGHTS_NAME}; pass the output_dir of a finished run or the file")
    if str(path).count("/") == 1 and not local.is_absolute() and not str(path).startswith("."):
        try:
            return Path(hf_hub_download(str(path), WEIGHTS_NAME))
        except Exception as error:
            raise FileNotFoundError(f"{path} is neither a local path nor a hub id that answers ({error})") from error
    raise FileNotFoundError(f"no adapter at {path}; pass a {WEIGHTS_NAME} file, the folder that holds it, or a hub id")


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in an adapter's header, or beside a whole U-Net. Raises ValueError for what this toolkit did not write."""
    if is_full(path):
        return read_full_recipe(path)
    file = locate(path)
    header = read_header(file)
    if RECIPE_KEY not in header:
        raise ValueError(
            f"{file} carries no recipe: it was not written by this toolkit. Pass one, as in attach(pipe, path, recipe=Recipe(...))"
        )
    return Recipe.from_json(header[RECIPE_KEY])


def family_name(unet: Any) -> str:
    """ "sdxl" for a U-Net that takes pooled embeddings and time ids, else "sd"."""
    return "sdxl" if unet.config.addition_embed_type == "text_time" else "sd"


def make_scheduler(base_config: Any, recipe: Recipe) -> Any:
    """The recipe's scheduler, built from the base model's own scheduler configuration.

    Raises ValueError for a class that no method plays with: a recipe may come from anywhere.
    """
    if recipe.scheduler not in SCHEDULERS:
        raise ValueError(f"the recipe asks for {recipe.scheduler!r}; this toolkit plays with {', '.join(SCHEDULERS)}")
    overrides = {**UNCLIPPED, **recipe.scheduler_config}  # early recipes do not say it
    return getattr(diffusers, recipe.scheduler).from_config(base_config, **overrides)


def check_compatible(pipe: Any, recipe: Recipe) -> None:
    """Raises ValueError when the adapter cannot work on this pipeline, naming what to change."""
    family, width = family_name(pipe.unet), pipe.unet.config.cross_attention_dim
    if (family, width) != (recipe.family, recipe.cross_attention_dim):
        raise ValueError(
            f"the adapter was made for a {recipe.family} U-Net with text width {recipe.cross_attention_dim}, this pipeline has a "
            f"{family} U-Net with text width {width}; use a base model of the adapter's family"
        )
    prediction_type = pipe.scheduler.config.get("prediction_type", "epsilon")
    if prediction_type != recipe.prediction_type:
        raise ValueError(
            f"the adapter was trained on a {recipe.prediction_type} teacher, this pipeline's scheduler says {prediction_type}; "
            "use a base model of the adapter's prediction type, or correct the scheduler's prediction_type if it is wrong"
        )
    if prediction_type == "epsilon" and pipe.scheduler.config.get("rescale_betas_zero_snr", False):
        raise ValueError(
            "this pipeline's scheduler has rescale_betas_zero_snr with an epsilon model, which divides by zero at the last "
            "timestep; set rescale_betas_zero_snr=False in its configuration"
        )


AdapterStates = dict[str, tuple[list[str], dict[str, float]]]
"""The active adapters and the scales of every adapted layer."""


def adapter_states(model: nn.Module) -> AdapterStates:
    return {name: (list(layer.active_adapters), dict(layer.scaling)) for name, layer in lora_modules(model).items()}


def activate_beside(unet: Any, adapter_name: str, weight: float, before: AdapterStates) -> None:
    """Switches an adapter on without touching the others, which are as `before`: loading it had made it the only active one."""
    active = next((names for names, _ in before.values()), [])
    for name, layer in lora_modules(unet).items():
        layer.set_adapter([*active, adapter_name], inference_mode=True)
        layer.scaling.update(before[name][1] if name in before else {})
        if adapter_name in layer.scaling:
            layer.set_scale(adapter_name, weight)


def take_out(model: Any, adapter_name: str, before: AdapterStates, trainable: set[nn.Parameter]) -> None:
    """Removes an adapter, however much of it was loaded; layers, active adapters and gradients are again as `before`."""
    for name, layer in lora_modules(model).items():
        if name not in before:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
            continue
        active, scales = before[name]
        layer.set_adapter(active)
        layer.delete_adapter(adapter_name)
        layer.scaling.update(scales)
    vars(model).get("peft_config", {}).pop(adapter_name, None)
    if not before:
        vars(model).pop("peft_config", None)
        model._hf_peft_config_loaded = False
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in trainable)


@contextmanager
def undone_on_error(pipe: Any, adapter_name: str) -> Iterator[None]:
    """Loading an adapter inside the block either succeeds or leaves U-Net and text encoders as they were."""
    models = [pipe.components[name] for name in ("unet", "text_encoder", "text_encoder_2") if pipe.components.get(name) is not None]
    before = [(model, adapter_states(model), {p for p in model.parameters() if p.requires_grad}) for model in models]
    try:
        yield
    except BaseException:
        for model, states, trainable in before:
            take_out(model, adapter_name, states, trainable)
        raise


def load(pipe: Any, file: Path, adapter_name: str) -> None:
    """Raises ValueError when not all of the file finds its place."""
    try:
        unet_keys = [key for key in tensor_names(file) if not key.startswith(("lora_te", "text_encoder"))]
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=adapter_name)
    except (RuntimeError, KeyError, OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} does not fit this pipeline ({reason}); use a base model of the adapter's kind") from error
    expected = sum(key.endswith((".lora_down.weight", ".lora_A.weight")) for key in unet_keys)
    loaded = sum(adapter_name in layer.r for layer in lora_modules(pipe.unet).values())
    if loaded != expected:
        raise ValueError(f"only {loaded} of the {expected} adapted layers in {file} found their place; nothing was changed")


def replace_unet(pipe: Any, path: str | os.PathLike[str], weight: float, recipe: Recipe) -> Recipe:
    """Raises ValueError where the U-Net in use has adapters, or for a weight: there is nothing to scale."""
    if weight != 1.0:
        raise ValueError(f"{path} holds a whole U-Net, not an adapter; it cannot be attached with weight {weight}")
    if lora_modules(pipe.unet):
        raise ValueError(f"{path} replaces the pipeline's U-Net, whose adapters would be lost; attach it first, adapters after")
    pipe.register_modules(unet=load_unet(path, pipe.unet), scheduler=make_scheduler(pipe.scheduler.config, recipe))
    return recipe


def attach(
    pipe: Any,
    path: str | os.PathLike[str],
    weight: float = 1.0,
    *,
    adapter_name: str = "lcm",
    recipe: Recipe | None = None,
) -> Recipe:
    """Loads an adapter into a stock SD or SDXL pipeline and sets the scheduler of its recipe.

    Adapters already active keep their weights. Afterwards call the pipeline with few steps and the recipe's `guidance_scale`.
    `path` is a file, an output folder or a hub id; `recipe` replaces the one in the file. Returns the recipe. A folder with
    a whole U-Net puts that in the place of the pipeline's own.
    Raises ValueError when the adapter does not fit the pipeline, which is then unchanged.
    """
    recipe = recipe or read_recipe(path)
    check_compatible(pipe, recipe)
    if is_full(path):
        return replace_unet(pipe, path, weight, recipe)
    file = locate(path)
    scheduler, before = make_scheduler(pipe.scheduler.config, recipe), adapter_states(pipe.unet)
    if any(adapter_name in names for names in pipe.get_list_adapters().values()):
        raise ValueError(f"an adapter named {adapter_name!r} is already loaded; delete it first or pass another adapter_name")
    with undone_on_error(pipe, adapter_name):
        load(pipe, file, adapter_name)
        activate_beside(pipe.unet, adapter_name, weight, before)
    pipe.scheduler = scheduler
    return recipe
