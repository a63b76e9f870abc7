"""diffusers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from packaging.version import Version

VERSION = Version(diffusers.__version__)


# diffusers >= 0.42.1: the file itself. Before, one without `weight_name` is refused offline, and
# one whose name does not end with .safetensors is opened as a pickle
@contextmanager
def named_as_safetensors(file: Path) -> Iterator[Path]:
    """Inside the block, where a safetensors file stands under a name that says so."""
    if file.suffix == ".safetensors":
        yield file
        return
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=file.parent) as folder:
        named = Path(folder, f"{file.stem}.safetensors")
        try:
            os.link(file, named)
        except OSError:  # not on every file system
            shutil.copyfile(file, named)
        yield named


# diffusers >= 0.40: dtype=, which older releases pass over without a word
def in_dtype(dtype: torch.dtype) -> dict[str, Any]:
    """The option of `from_pretrained` and `from_single_file` for the precision."""
    return {"dtype" if Version("0.40") <= VERSION else "torch_dtype": dtype}


# diffusers >= 0.41: nothing
def check_text_encoders(modules: Iterable[str]) -> None:
    """Raises ValueError where diffusers would fall over layers of a text encoder: it looks for
    their place by the name that transformers 5.6 took away.
    """
    is_flat = Version("5.6") <= Version(transformers.__version__)
    if is_flat and Version("0.41") > VERSION and any(m.startswith("text_encoder") for m in modules):
        raise ValueError(
            f"diffusers {VERSION} cannot load an adapter's layers of text encoders beside "
            f"transformers {transformers.__version__}; pip install --upgrade 'diffusers>=0.41'"
        )
