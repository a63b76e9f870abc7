"""Base models in a single .safetensors file in the original layout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    fetch_diffusers_config,
    is_clip_model_in_single_file,
)
from transformers import CLIPTextModel

from lcm.adapter.files import opened, refuse_pickle, tensor_names
from lcm.adapter.names import PICKLED
from lcm.libraries.diffusers import in_dtype
from lcm.libraries.transformers import tokenizers_of_folder
from lcm.system.secrets import one_line

UNET, VAE = "model.diffusion_model.input_blocks.", "first_stage_model."


ORIGINAL_LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "StableDiffusionPipeline": {
        "text encoder": ("cond_stage_model.transformer.text_model.", "cond_stage_model.model."),
        "U-Net": (UNET,),
        "VAE": (VAE, "vae."),
    },
    "StableDiffusionXLPipeline": {
        "text encoder": ("conditioner.embedders.0.transformer.text_model.",),
        "second text encoder": ("conditioner.embedders.1.model.",),
        "U-Net": (UNET,),
        "VAE": (VAE, "vae."),
    },
}
"""Pipeline class -> its parts in a single file, by the beginnings of their tensors' names. The
first tells the classes apart.
"""


EDM_MARKS = ("edm_vpred.sigma_max", "edm_mean")
"""Tensors of models whose noise levels are not those of timesteps."""


NOT_LOADED = ("safety_checker", "feature_extractor", "image_encoder")
"""Components of some folders that drawing from text does without."""


def is_single_file(path: str | os.PathLike[str]) -> bool:
    """Whether this names a checkpoint in one file, there or not, rather than a folder or a hub
    id.
    """
    return not Path(path).is_dir() and Path(path).suffix in (".safetensors", *PICKLED)


def check_file(path: Path, vae_replaced: bool) -> str:
    """The pipeline class of a checkpoint in the original layout, by the names of its tensors.

    Raises FileNotFoundError or ValueError for a file that cannot be read safely, that is something
    else or lacks a part.
    """
    try:
        refuse_pickle(path)
        if not path.is_file():
            raise FileNotFoundError(f"path: there is no file {path}")
        names = tensor_names(path)
    except ValueError as error:
        raise ValueError(f"path: {error}") from error
    if is_adapter(names):
        raise ValueError(
            f"path: {path} is an adapter (LoRA), not a base model; pass the model that it was made "
            "for"
        )
    if edm := next((name for name in EDM_MARKS if name in names), None):
        raise ValueError(
            f"path: {path} has the tensor {edm} of a model with continuous noise levels (EDM), as "
            "CosXL and Playground v2.5 are; use a model with discrete timesteps"
        )
    # the text encoder tells the kinds apart: their U-Nets have the same names
    found = [
        name
        for name, parts in ORIGINAL_LAYOUTS.items()
        if any(n.startswith(next(iter(parts.values()))) for n in names)
    ]
    if not found or not any(name.startswith(UNET) for name in names):
        raise ValueError(
            f"path: {path} is no complete {' or '.join(ORIGINAL_LAYOUTS)} checkpoint in the "
            "original layout, with text encoder, U-Net and VAE; a single component or another kind "
            "of model cannot be loaded"
        )
    for part, beginnings in ORIGINAL_LAYOUTS[found[0]].items():
        if not any(name.startswith(beginnings) for name in names) and not (
            part == "VAE" and vae_replaced
        ):
            other = " or name another VAE" if part == "VAE" else ""
            raise ValueError(
                f"path: {path} lacks its {part}; use a checkpoint that has all parts{other}"
            )
    return found[0]


def is_adapter(names: list[str]) -> bool:
    """Whether these are the tensors of a LoRA, in any layout."""
    return any(".lora_" in name or ".lora." in name for name in names)


def default_config(path: Path) -> str:
    """The hub id of the model that diffusers takes the configuration of this kind of file from."""
    with opened(path) as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    found: dict[str, str] = fetch_diffusers_config(empty)
    return found["pretrained_model_name_or_path"]


def load_file(
    path: str,
    stock: Any,
    base_config: str | None,
    config: Path,
    dtype: torch.dtype,
    components: dict[str, Any],
) -> Any:
    """The pipeline of a checked file with the checked folder `config`, which the user calls
    `base_config`. Raises ValueError when the file is not of the kind that it describes.
    """
    names = tensor_names(Path(path))
    if not is_clip_model_in_single_file(CLIPTextModel, names):
        # diffusers would look for its weights in the other folder, pickles too
        raise ValueError(
            f"path: {path} lacks a part of its text encoder; use a checkpoint that has all parts"
        )
    try:
        pipe = stock.from_single_file(
            path,
            config=str(config),
            **in_dtype(dtype),
            **tokenizers_of_folder(config),
            **dict.fromkeys(NOT_LOADED),
            **components,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # an odd configuration makes libraries raise anything
        raise ValueError(
            f"path: {path} does not load with the configuration {base_config or 'of its kind'}; "
            "pass the base_config of its own kind of model, or download the file again "
            f"({one_line(error)})"
        ) from error
    theirs = sum(name.startswith("model.diffusion_model.") for name in names)
    ours = len(pipe.unet.state_dict())
    if theirs != ours:
        raise ValueError(
            f"base_config: the U-Net in {path} has {theirs} tensors, that of "
            f"{base_config or 'its kind'} {ours}; pass the configuration of its own kind of model"
        )
    if "vae" not in components:
        # as of a folder: caches say what they were made with
        pipe.vae.register_to_config(_name_or_path=path)
    return pipe
