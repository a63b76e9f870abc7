"""Base models from anywhere: a diffusers folder, a hub id, a single file in the original layout."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors import SafetensorError

from lcm.adapter.files import tensor_names
from lcm.adapter.names import WEIGHTS_NAME
from lcm.models.single_file import (
    NOT_LOADED,
    ORIGINAL_LAYOUTS,
    UNET,
    check_file,
    is_single_file,
    load_file,
)
from lcm.system.secrets import one_line

REQUIRED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def is_base(path: str | os.PathLike[str]) -> bool:
    """Whether a complete model lies here, a diffusers folder or a single file, rather than an
    adapter.
    """
    if Path(path).is_dir():
        return Path(path, "model_index.json").is_file()
    return (
        Path(path).is_file()
        and Path(path).suffix == ".safetensors"
        and any(n.startswith(UNET) for n in tensor_names(Path(path)))
    )


@contextmanager
def named_by(**flags: str) -> Iterator[None]:
    """Inside the block, what `load_base` says of its arguments begins with these names instead of
    their own.
    """
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        name, colon, rest = str(error).partition(": ")
        if not colon or name not in flags:
            raise
        raise type(error)(f"{flags[name]}: {rest}") from error


# --- folders --------------------------------------------------------------------------------------


def check_folder(folder: Path, argument: str) -> str:
    """The pipeline class of a local diffusers folder.

    Raises FileNotFoundError or ValueError naming what it lacks, before any weight is read.
    """
    index = folder / "model_index.json"
    if (folder / WEIGHTS_NAME).is_file() and not index.is_file():
        raise ValueError(
            f"{argument}: {folder} holds an adapter, not a base model; pass the model that it was "
            "made for"
        )
    if not index.is_file():
        raise FileNotFoundError(
            f"{argument}: {folder} has no model_index.json; pass a diffusers pipeline folder"
        )
    try:
        components = json.loads(index.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{argument}: {index} is not valid JSON ({error}); restore the file"
        ) from error
    if not isinstance(components, dict):
        raise ValueError(f"{argument}: {index} must hold a JSON object; restore the file")
    class_name = components.get("_class_name")
    check_class(class_name, str(folder), argument)
    declared = {
        name
        for name, value in components.items()
        if isinstance(value, list) and value[0] is not None
    }
    for name in sorted(declared.union(REQUIRED).difference(NOT_LOADED)):
        if not (folder / name).is_dir() or not any((folder / name).iterdir()):
            raise FileNotFoundError(
                f"{argument}: {folder} lacks its component {name!r} (no files in {folder / name}); "
                "complete the download or save the pipeline again"
            )
    return str(class_name)


def check_class(class_name: Any, where: str, argument: str) -> None:
    if class_name not in ORIGINAL_LAYOUTS:
        raise ValueError(
            f"{argument}: {where} is a {class_name}; this toolkit works with "
            f"{' and '.join(ORIGINAL_LAYOUTS)} checkpoints"
        )


def check_complete(pipe: Any, path: str, replaced: set[str]) -> None:
    """Raises ValueError where weights or a vocabulary are missing, which the libraries pass over
    with random values.

    `replaced` components come from elsewhere.
    """
    for name, component in pipe.components.items():
        if isinstance(component, torch.nn.Module) and name not in replaced:
            if any(p.is_meta for p in component.parameters()):
                raise ValueError(
                    f"path: the weight file of {name} in {path} lacks tensors; download it again"
                )
            files = list(Path(path, name).glob("*.safetensors"))
            if len(files) == 1 and len(tensor_names(files[0])) < len(component.state_dict()):
                raise ValueError(f"path: {files[0]} lacks tensors; download it again")
    for number in ("", "_2"):
        tokenizer, encoder = (
            getattr(pipe, f"{part}{number}", None) for part in ("tokenizer", "text_encoder")
        )
        if (
            tokenizer is not None
            and encoder is not None
            and len(tokenizer) < 0.9 * encoder.config.vocab_size
        ):
            raise ValueError(
                f"path: tokenizer{number} of {path} knows {len(tokenizer)} of the "
                f"{encoder.config.vocab_size} words of its text encoder; its vocabulary file is "
                "missing, download it again"
            )


# --- single files ---------------------------------------------------------------------------------


# --- both -----------------------------------------------------------------------------------------


def check_base(
    path: str,
    base_config: str | None,
    revision: str | None,
    variant: str | None,
    vae_replaced: bool,
) -> str | None:
    """The pipeline class, None where only the hub knows. Raises before anything is loaded."""
    if not is_single_file(path):
        if base_config is not None:
            raise ValueError(f"base_config: {path} has a configuration of its own; leave it out")
        if Path(path).is_dir():
            return check_folder(Path(path), "path")
        if Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") > 1:
            raise FileNotFoundError(
                f"path: {path} is not a folder; pass a diffusers pipeline folder, a .safetensors "
                "file or a hub id"
            )
        return None
    for name, value in (("revision", revision), ("variant", variant)):
        if value is not None:
            raise ValueError(f"{name}: a single file has none; leave it out")
    class_name = check_file(Path(path), vae_replaced)
    if base_config is not None and Path(base_config).exists():
        described = check_folder(Path(base_config), "base_config")
        if described != class_name:
            raise ValueError(
                f"base_config: {path} is a {class_name} checkpoint, {base_config} describes a "
                f"{described}"
            )
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

    `path` is a diffusers folder, a hub id, or a .safetensors file in the original layout (of
    ComfyUI, A1111 and most community models). A file holds weights alone: `base_config`, a
    diffusers folder (with or without weights) or hub id of the same kind of model, says the rest:
    architecture, tokenizer, scheduler with its prediction type. Without it diffusers takes that
    from the hub. `pipeline_class`, for image-to-image for instance, stands in for the text-to-image
    class. Only safetensors are read. Raises FileNotFoundError or ValueError naming the argument and
    what is missing.
    """
    path, base_config = str(path), None if base_config is None else str(base_config)
    # what is missing or no model is told by its name before gigabytes are read
    class_name = check_base(path, base_config, revision, variant, vae_path is not None)
    try:
        vae = (
            {
                "vae": AutoencoderKL.from_pretrained(
                    vae_path, torch_dtype=dtype, use_safetensors=True
                )
            }
            if vae_path
            else {}
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = one_line(error)
        raise FileNotFoundError(f"vae_path: {vae_path} could not be loaded: {reason}") from error
    if is_single_file(path):
        pipe = load_file(
            path, pipeline_class or getattr(diffusers, str(class_name)), base_config, dtype, vae
        )
    else:
        try:
            pipe = (pipeline_class or DiffusionPipeline).from_pretrained(
                path,
                dtype=dtype,
                revision=revision,
                variant=variant,
                use_safetensors=True,
                safety_checker=None,
                **vae,
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise FileNotFoundError(
                f"path: {path} could not be loaded: {one_line(error)}"
            ) from error
    # a hub id is known for what it is only once it is here
    if pipeline_class is None:
        check_class(type(pipe).__name__, path, "path")
    check_complete(pipe, path, replaced=set(vae))
    return pipe
