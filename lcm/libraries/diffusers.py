"""diffusers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from packaging.version import Version


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
    knows = Version(diffusers.__version__) >= Version("0.40")
    return {"dtype" if knows else "torch_dtype": dtype}
