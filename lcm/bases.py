"""Base models from anywhere: a diffusers folder, a hub id, a single file in the original layout."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError

from lcm.adapters import PICKLED, WEIGHTS_NAME, read_header, tensor_names

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
"""Pipeline class -> its parts in a single file, by the beginnings of their tensors' names. The first tells the classes apart."""

REQUIRED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
NOT_LOADED = ("safety_checker", "feature_extractor", "image_encoder")
"""Components of some folders that drawing from text does without."""

LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError, SingleFileComponentError)
"""What the libraries raise for files that are damaged, incomplete or of another model."""


def is_single_file(path: str | os.PathLike[str]) -> bool:
    """Whether this names a checkpoint in one file, there or not, rather than a folder or a hub id."""
    return not Path(path).is_dir() and Path(path).suffix in (".safetensors", *PICKLED)


def is_base(path: str | os.PathLike[str]) -> bool:
    """Whether a complete model lies here, a diffusers folder or a single file, rather than an adapter."""
    if Path(path).is_dir():
        return Path(path, "model_index.json").is_file()
    return (
        Path(path).is_file() and Path(path).suffix == ".safetensors" and any(n.startswith(UNET) for n in tensor_names(Path(path)))
    )


@contextmanager
def named_by(**flags: str) -> Iterator[None]:
    """Inside the block, what `load_base` says of its arguments begins with these names instead of their own."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        name, colon, rest = str(error).partition(": ")
        if not colon or name not in flags:
            raise
        raise type(error)(f"{flags[name]}: {rest}") from error


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


# --- folders ------------------------------------------------------------------------------------------------------------


def check_folder(folder: Path, argument: str) -> str:
    """The pipeline class of a local diffusers folder.

    Raises FileNotFoundError or ValueError naming what it lacks, before any weight is read.
    """
    index = folder / "model_index.json"
    if (folder / WEIGHTS_NAME).is_file() and not index.is_file():
        raise ValueError(f"{argument}: {folder} holds an adapter, not a base model; pass the model that it was made for")
    if not index.is_file():
        raise FileNotFoundError(f"{argument}: {folder} has no model_index.json; pass a diffusers pipeline folder")
    try:
        components = json.loads(index.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{argument}: {index} is not valid JSON ({error}); restore the file") from error
    if not isinstance(components, dict):
        raise ValueError(f"{argument}: {index} must hold a JSON object; restore the file")
    class_name = components.get("_class_name")
    check_class(class_name, str(folder), argument)
    declared = {name for name, value in components.items() if isinstance(value, list) and value[0] is not None}
    for name in sorted(declared.union(REQUIRED).difference(NOT_LOADED)):
        if not (folder / name).is_dir() or not any((folder / name).iterdir()):
            raise FileNotFoundError(
                f"{argument}: {folder} lacks its component {name!r} (no files in {folder / name}); complete the download or save "
                "the pipeline again"
            )
    return str(class_name)


def check_class(class_name: Any, where: str, argument: str) -> None:
    if class_name not in ORIGINAL_LAYOUTS:
        raise ValueError(
            f"{argument}: {where} is a {class_name}; this toolkit works with {' and '.join(ORIGINAL_LAYOUTS)} checkpoints"
        )


def check_complete(pipe: Any, path: str, replaced: set[str]) -> None:
    """Raises ValueError where weights or a vocabulary are missing, which the libraries pass over with random values.

    `replaced` components come from elsewhere.
    """
    for name, component in pipe.components.items():
        if isinstance(component, torch.nn.Module) and name not in replaced:
            if any(p.is_meta for p in component.parameters()):
                raise ValueError(f"path: the weight file of {name} in {path} lacks tensors; download it again")
            files = list(Path(path, name).glob("*.safetensors"))
            if len(files) == 1 and len(tensor_names(files[0])) < len(component.state_dict()):
                raise ValueError(f"path: {files[0]} lacks tensors; download it again")
    for number in ("", "_2"):
        tokenizer, encoder = (getattr(pipe, f"{part}{number}", None) for part in ("tokenizer", "text_encoder"))
        if tokenizer is not None and encoder is not None and len(tokenizer) < 0.9 * encoder.config.vocab_size:
            raise ValueError(
                f"path: tokenizer{number} of {path} knows {len(tokenizer)} of the {encoder.config.vocab_size} words of its text "
                "encoder; its vocabulary file is missing, download it again"
            )


# --- single files -------------------------------------------------------------------------------------------------------


def check_file(path: Path, vae_replaced: bool) -> str:
    """The pipeline class of a checkpoint in the original layout, by the names of its tensors.

    Raises FileNotFoundError or ValueError for a file that cannot be read safely, that is something else or lacks a part.
    """
    if path.suffix in PICKLED:
        raise ValueError(
            f"path: {path} is a pickled checkpoint, which can run code as it is read; use its .safetensors version, or convert it "
            "where you trust it"
        )
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {path}")
    try:
        read_header(path)
    except ValueError as error:
        raise ValueError(f"path: {error}") from error
    names = tensor_names(path)
    if is_adapter(names):
        raise ValueError(f"path: {path} is an adapter (LoRA), not a base model; pass the model that it was made for")
    found = [name for name, parts in ORIGINAL_LAYOUTS.items() if any(n.startswith(next(iter(parts.values()))) for n in names)]
    if not found or not any(name.startswith(UNET) for name in names):
        raise ValueError(
            f"path: {path} is no complete {' or '.join(ORIGINAL_LAYOUTS)} checkpoint in the original layout, with text encoder, "
            "U-Net and VAE; a single component or another kind of model cannot be loaded"
        )
    for part, beginnings in ORIGINAL_LAYOUTS[found[0]].items():
        if not any(name.startswith(beginnings) for name in names) and not (part == "VAE" and vae_replaced):
            other = " or name another VAE" if part == "VAE" else ""
            raise ValueError(f"path: {path} lacks its {part}; use a checkpoint that has all parts{other}")
    return found[0]


def is_adapter(names: list[str]) -> bool:
    """Whether these are the tensors of a LoRA, in any layout."""
    return any(".lora_" in name or ".lora." in name for name in names)


def load_file(path: str, stock: Any, base_config: str | None, dtype: torch.dtype, components: dict[str, Any]) -> Any:
    """Raises ValueError when the file is not of the kind that `base_config` describes, or that is not to be had."""
    try:
        pipe = stock.from_single_file(path, config=base_config, dtype=dtype, **dict.fromkeys(NOT_LOADED), **components)
    except LOADING_ERRORS as error:
        if base_config is None and isinstance(error, OSError):
            raise ValueError(
                f"base_config: {path} holds weights alone, and its configuration could not be downloaded; pass a diffusers folder "
                f"of the same kind of model, whose weights are not needed ({one_line(error)})"
            ) from error
        raise ValueError(
            f"path: {path} does not load with the configuration {base_config or 'of its kind'}; pass the base_config of its own "
            f"kind of model, or download the file again ({one_line(error)})"
        ) from error
    names = tensor_names(Path(path))
    theirs, ours = sum(name.startswith("model.diffusion_model.") for name in names), len(pipe.unet.state_dict())
    if theirs != ours:
        raise ValueError(
            f"base_config: the U-Net in {path} has {theirs} tensors, that of {base_config or 'its kind'} {ours}; pass the "
            "configuration of its own kind of model"
        )
    check_prediction(pipe.scheduler.config, path, names)
    if "vae" not in components:
        pipe.vae.register_to_config(_name_or_path=path)  # as of a folder: caches say what they were made with
    return pipe


def check_prediction(scheduler: Mapping[str, Any], path: str, names: list[str]) -> None:
    """Raises ValueError where a file that says that it is a v-model is told to be another one: it would draw noise."""
    is_v = "v_pred" in names or read_header(Path(path)).get("modelspec.prediction_type", "").startswith("v")
    facts = {"prediction_type": "v_prediction"} if is_v else {}
    for name, value in (facts | ({"rescale_betas_zero_snr": True} if "ztsnr" in names else {})).items():
        if scheduler.get(name) != value:
            raise ValueError(
                f"base_config: {path} says of itself {name} {value}, the scheduler of the configuration {scheduler.get(name)}; "
                f"pass a base_config whose scheduler/scheduler_config.json has {name} {value}"
            )


# --- both ---------------------------------------------------------------------------------------------------------------


def check_base(path: str, base_config: str | None, revision: str | None, variant: str | None, vae_replaced: bool) -> str | None:
    """The pipeline class, None where only the hub knows. Raises before anything is loaded."""
    if not is_single_file(path):
        if base_config is not None:
            raise ValueError(f"base_config: {path} has a configuration of its own; leave it out")
        if Path(path).is_dir():
            return check_folder(Path(path), "path")
        if Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") > 1:
            raise FileNotFoundError(
                f"path: {path} is not a folder; pass a diffusers pipeline folder, a .safetensors file or a hub id"
            )
        return None
    for name, value in (("revision", revision), ("variant", variant)):
        if value is not None:
            raise ValueError(f"{name}: a single file has none; leave it out")
    class_name = check_file(Path(path), vae_replaced)
    if base_config is not None and Path(base_config).exists():
        described = check_folder(Path(base_config), "base_config")
        if described != class_name:
            raise ValueError(f"base_config: {path} is a {class_name} checkpoint, {base_config} describes a {described}")
    return class_name


def load_base(
    path: str | os.PathLike[str],
    *,
    base_config: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    variant: str | None = None,
    vae_path: str | None = None,
    pipeline_class: Any = None,
) -> Any:
    """Loads a stock Stable Diffusion or SDXL pipeline, all components in `dtype`.

    `path` is a diffusers folder, a hub id, or a .safetensors file in the original layout (of ComfyUI, A1111 and most community
    models). A file holds weights alone: `base_config`, a diffusers folder (with or without weights) or hub id of the same kind of
    model, says the rest: architecture, tokenizer, scheduler with its prediction type. Without it diffusers takes that from the hub.
    `pipeline_class`, for image-to-image for instance, stands in for the text-to-image class. Only safetensors are read.
    Raises FileNotFoundError or ValueError naming the argument and what is missing.
    """
    path, base_config = str(path), None if base_config is None else str(base_config)
    class_name = check_base(path, base_config, revision, variant, vae_path is not None)
    try:
        vae = {"vae": AutoencoderKL.from_pretrained(vae_path, torch_dtype=dtype, use_safetensors=True)} if vae_path else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise FileNotFoundError(f"vae_path: {vae_path} could not be loaded: {error}") from error
    if is_single_file(path):
        pipe = load_file(path, pipeline_class or getattr(diffusers, str(class_name)), base_config, dtype, vae)
    else:
        try:
            pipe = (pipeline_class or DiffusionPipeline).from_pretrained(
                path, dtype=dtype, revision=revision, variant=variant, use_safetensors=True, safety_checker=None, **vae
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise FileNotFoundError(f"path: {path} could not be loaded: {error}") from error
    if pipeline_class is None:
        check_class(type(pipe).__name__, path, "path")
    check_complete(pipe, path, replaced=set(vae))
    return pipe
