"""Base models from anywhere: a diffusers folder, a hub id, a single file in the original layout."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL

from lcm.adapter.files import tensor_names
from lcm.adapter.model_folder import FIX, check_component, load_model, loading
from lcm.adapter.names import WEIGHTS_NAME
from lcm.adapter.recipe import family_name
from lcm.libraries.diffusers import in_dtype
from lcm.libraries.transformers import parts_of_folder
from lcm.models.hub_folder import CONFIG_FILES, VAE_FILES, download, fetch
from lcm.models.model_index import INDEX_NAME, NOTHING, REQUIRED, read_index
from lcm.models.noise import Noise, set_noise
from lcm.models.single_file import (
    NOT_LOADED,
    ORIGINAL_LAYOUTS,
    UNET,
    check_file,
    default_config,
    is_single_file,
    load_file,
)
from lcm.system.secrets import one_line
from lcm.system.text import is_utf8, plain

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(?<!\.safetensors)")
"""What may be a model of the hub: others are not asked for there, which takes half a minute where
there is no network.
"""


def is_base(path: str | os.PathLike[str]) -> bool:
    """Whether a complete model lies here, a diffusers folder or a single file, rather than an
    adapter.
    """
    if Path(path).is_dir():
        return Path(path, INDEX_NAME).is_file()
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


def check_folder(
    folder: Path,
    argument: str,
    classes: Collection[str],
    leave_out: Collection[str] = NOT_LOADED,
) -> str:
    """The pipeline class of a local diffusers folder, one of `classes`, all of whose components
    will be loaded but those to `leave_out`.

    Raises FileNotFoundError or ValueError naming what it lacks, or what a library would import or
    open because of it, before any weight is read.
    """
    index = folder / INDEX_NAME
    if (folder / WEIGHTS_NAME).is_file() and not index.is_file():
        raise ValueError(
            f"{argument}: {folder} holds an adapter, not a base model; pass the model that it was "
            "made for"
        )
    if not index.is_file():
        raise FileNotFoundError(
            f"{argument}: {folder} has no {INDEX_NAME}; pass a diffusers pipeline folder"
        )
    entries = read_index(index, argument, classes)
    declared = {
        name: value[1]
        for name, value in entries.items()
        if isinstance(value, list) and value != NOTHING and name not in leave_out
    }
    for name in sorted({*declared, *REQUIRED}):
        if not (folder / name).is_dir() or not any((folder / name).iterdir()):
            raise FileNotFoundError(
                f"{argument}: {folder} lacks its component {name!r} (no files in {folder / name}); "
                "complete the download or save the pipeline again"
            )
    for name, class_name in declared.items():
        try:
            check_component(folder / name, class_name)
        except ValueError as error:
            raise ValueError(f"{argument}: {error}") from error
    return str(entries["_class_name"])


def check_complete(pipe: Any, path: str, replaced: set[str]) -> None:
    """Raises ValueError for the U-Net of another kind of model, and where weights or a vocabulary
    are missing, which the libraries pass over with random values.

    `replaced` components come from elsewhere.
    """
    family = family_name(pipe.unet)
    if (family == "sdxl") != hasattr(pipe, "text_encoder_2"):
        raise ValueError(
            f"path: the U-Net of {path} is one of {family.upper()}, its other parts are those of "
            f"another kind of model; {FIX}"
        )
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
        if tokenizer is None or encoder is None:
            continue
        if max(tokenizer.all_special_ids, default=0) >= encoder.config.vocab_size:
            raise ValueError(
                f"path: tokenizer{number} of {path} has tokens that its text encoder of "
                f"{encoder.config.vocab_size} words does not know; {FIX}"
            )
        if len(tokenizer) < 0.9 * encoder.config.vocab_size:
            raise ValueError(
                f"path: tokenizer{number} of {path} knows {len(tokenizer)} of the "
                f"{encoder.config.vocab_size} words of its text encoder; its vocabulary file is "
                "missing, download it again"
            )


# --- both -----------------------------------------------------------------------------------------


def check_arguments(
    path: str, base_config: str | None, revision: str | None, variant: str | None
) -> None:
    """Raises FileNotFoundError or ValueError for a path that is no model of any kind, and for
    arguments that have no meaning with it.
    """
    if not is_utf8(path):
        raise FileNotFoundError(
            f"path: {path} is not UTF-8, as safetensors needs it; rename the folder or file"
        )
    if is_single_file(path):
        for name, value in (("revision", revision), ("variant", variant)):
            if value is not None:
                raise ValueError(f"{name}: a single file has none; leave it out")
        return
    if base_config is not None:
        raise ValueError(f"base_config: {path} has a configuration of its own; leave it out")
    if not Path(path).is_dir() and (Path(path).exists() or not HUB_ID.fullmatch(path)):
        raise FileNotFoundError(
            f"path: {path} is not a folder; pass a diffusers pipeline folder, a .safetensors "
            "file or a hub id, owner/name"
        )


def load_base(
    path: str | os.PathLike[str],
    *,
    base_config: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    variant: str | None = None,
    vae_path: str | None = None,
    pipeline_class: Any = None,
    leave_out: Collection[str] = NOT_LOADED,
) -> Any:
    """Loads a stock Stable Diffusion or SDXL pipeline, all components in `dtype`.

    `path` is a diffusers folder, a hub id, or a .safetensors file in the original layout (of
    ComfyUI, A1111 and most community models). A file holds weights alone: `base_config`, a
    diffusers folder (with or without weights) or hub id of the same kind of model, says the rest:
    architecture, tokenizer, scheduler. Without it diffusers takes that from the hub. A file that
    says of itself that it predicts v is taken at its word. `pipeline_class`, for image-to-image
    for instance, stands in for the text-to-image class. `leave_out` are the components of a folder
    that are not wanted; of a single file none of `NOT_LOADED` is there. Only safetensors are read,
    and nothing is imported because a file names it. Raises FileNotFoundError or ValueError naming
    the argument and what is missing.
    """
    path, base_config = str(path), None if base_config is None else str(base_config)
    check_arguments(path, base_config, revision, variant)
    classes = classes_for(pipeline_class)
    # what is missing, no model or not safe is told by its name before gigabytes are read
    if is_single_file(path):
        class_name = check_file(Path(path), vae_path is not None)
        config = local_config(path, base_config)
        described = check_folder(config, "base_config", classes)
        if described != class_name:
            raise ValueError(
                f"base_config: {path} is a {class_name} checkpoint, {base_config} describes a "
                f"{described}"
            )
        vae = load_vae(vae_path, dtype)
        stock = pipeline_class or getattr(diffusers, class_name)
        pipe = load_file(path, stock, base_config, config, dtype, vae)
        set_noise(pipe, Noise.said_by(Path(path)))
    else:
        folder = Path(path)
        if not folder.is_dir():
            folder = download(path, revision, variant, classes, leave_out)
        class_name = check_folder(folder, "path", classes, leave_out)
        vae = load_vae(vae_path, dtype)
        stock = pipeline_class or getattr(diffusers, class_name)
        with loading(f"path: {path}", FIX):
            pipe = stock.from_pretrained(
                folder,
                variant=variant,
                use_safetensors=True,
                **in_dtype(dtype),
                **(parts_of_folder(folder, dtype, variant) | dict.fromkeys(leave_out) | vae),
            )
        pipe.register_to_config(_name_or_path=path)
    check_complete(pipe, path, replaced=set(vae))
    return pipe


def classes_for(pipeline_class: Any) -> list[str]:
    """The pipeline classes whose folders can be loaded: those of the families, and the stock class
    that `pipeline_class` is made of.
    """
    stock = getattr(pipeline_class, "stock_class", pipeline_class)
    known = list(ORIGINAL_LAYOUTS)
    return known if stock is None or stock.__name__ in known else [*known, stock.__name__]


def local_config(path: str, base_config: str | None) -> Path:
    """The folder that says what the single file does not: the one that is given, or that of the hub
    in the local cache. Raises ValueError where it is not to be had.
    """
    if base_config is not None and Path(base_config).exists():
        return Path(base_config)
    try:
        return fetch(base_config or default_config(Path(path)), CONFIG_FILES)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"base_config: {path} holds weights alone, and its configuration could not be "
            "downloaded; pass a diffusers folder of the same kind of model, whose weights are "
            f"not needed ({one_line(error)})"
        ) from error


def vae_folder(path: str) -> Path:
    """The folder of a VAE, downloaded where it is a hub id. Raises OSError or ValueError."""
    return Path(path) if Path(path).is_dir() else fetch(path, VAE_FILES)


def load_vae(vae_path: str | None, dtype: torch.dtype) -> dict[str, Any]:
    """The VAE that stands in for the model's own, from a folder or a hub id; {} without one."""
    if vae_path is None:
        return {}
    try:
        vae = load_model(AutoencoderKL, vae_folder(vae_path), **in_dtype(dtype))
    except (OSError, ValueError) as error:
        message = f"vae_path: {vae_path} could not be loaded: {plain(error, 500)}"
        raise FileNotFoundError(message) from error
    vae.register_to_config(_name_or_path=vae_path)
    return {"vae": vae}
