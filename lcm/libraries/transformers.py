"""transformers."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPTokenizerFast
from transformers.convert_slow_tokenizer import convert_slow_tokenizer

VERSION = Version(transformers.__version__)
READS_TOKENIZER_FILE = Version("5.0") <= VERSION
"""Whether `CLIPTokenizer` reads tokenizer.json, the one file that transformers 5 writes of a
tokenizer, and says where in a text its tokens stand.
"""
HAS_PREFIX = Version("5.6") > VERSION
"""Whether the parts of a `CLIPTextModel` lie in one called text_model, as in all older files. What
stands without that name in a file is taken for missing then, and gets random values.
"""
PREFIX = "text_model."


# --- reading --------------------------------------------------------------------------------------


# transformers >= 5.6: nothing
def parts_of_folder(folder: Path, dtype: torch.dtype, variant: str | None) -> dict[str, Any]:
    """The parts of a model's folder, by name, that a newer release wrote in a way
    that this one does not read.
    """
    encoder = folder / "text_encoder"
    files = sorted(encoder.glob("*.safetensors"))
    if variant is not None:
        files = [file for file in files if f".{variant}." in file.name] or files
    parts = tokenizers_of_folder(folder)
    if HAS_PREFIX and files and not any(map(has_prefix, files)):
        parts["text_encoder"] = CLIPTextModel.from_pretrained(
            None,
            config=CLIPTextConfig.from_pretrained(encoder),
            state_dict={name: tensor for file in files for name, tensor in prefixed(file).items()},
            torch_dtype=dtype,
            use_safetensors=True,
        )
    return parts


def has_prefix(file: Path) -> bool:
    """Whether the tensors of a `CLIPTextModel` have their older names, by the file's header."""
    with safe_open(file, "pt") as opened:
        return any(name.startswith(PREFIX) for name in opened.keys())  # noqa: SIM118


def prefixed(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by their older names."""
    return {PREFIX + name: tensor for name, tensor in load_file(file).items()}


# transformers >= 5.0: nothing
def tokenizers_of_folder(folder: Path) -> dict[str, Any]:
    """The tokenizers of a model's folder that `CLIPTokenizer` does not read, by name."""
    if READS_TOKENIZER_FILE:
        return {}
    places = {name: folder / name for name in ("tokenizer", "tokenizer_2")}
    return {
        name: older_layout(place)
        for name, place in places.items()
        if (place / "tokenizer.json").is_file() and not (place / "vocab.json").is_file()
    }


def older_layout(place: Path) -> CLIPTokenizer:
    """The tokenizer of a folder with a tokenizer.json alone."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(place, folder, dirs_exist_ok=True)
        CLIPTokenizerFast.from_pretrained(place).backend_tokenizer.model.save(folder)
        return CLIPTokenizer.from_pretrained(folder)


# transformers >= 5.0: the tokenizer itself
def with_offsets(tokenizer: Any) -> Any:
    """The tokenizer, or one of the same words, that takes `return_offsets_mapping`."""
    if tokenizer.is_fast:
        return tokenizer
    return CLIPTokenizerFast(tokenizer_object=convert_slow_tokenizer(tokenizer))


# --- writing --------------------------------------------------------------------------------------


# transformers >= 5.6 for everybody who may get the folder: nothing
def save_for_all(pipe: Any, folder: str | os.PathLike[str], **options: Any) -> None:
    """Saves a pipeline as every release reads it: tokenizers with vocab.json and merges.txt, the
    tensors of the text encoder by their older names.
    """
    pipe.save_pretrained(folder, **options)
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer: Any = getattr(pipe, name, None)
        if getattr(tokenizer, "is_fast", False):
            tokenizer.backend_tokenizer.model.save(str(Path(folder, name)))
    if isinstance(getattr(pipe, "text_encoder", None), CLIPTextModel):
        add_prefix(Path(folder, "text_encoder"))


def add_prefix(encoder: Path) -> None:
    """Gives the tensors of a `CLIPTextModel` in one file their older names."""
    files = list(encoder.glob("*.safetensors"))
    # several have an index, with the names
    if len(files) == 1 and not has_prefix(files[0]):
        # copies, for Windows replaces no file that is still mapped
        tensors = {name: tensor.clone() for name, tensor in prefixed(files[0]).items()}
        save_file(tensors, files[0], metadata={"format": "pt"})
