"""An adapter file, read once: its header, the names and shapes of its tensors, its strengths; and
the refusal of what is not safe to open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lcm.adapter.names import PICKLED
from lcm.adapter.recipe import Recipe

DOWN_PROJECTIONS = (
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora.down.weight",
    "_lora.down.weight",
    ".lora_linear_layer.down.weight",
)
"""How the layouts that diffusers reads end the name of the first matrix of an adapted layer."""

TEXT_KEYS = ("lora_te", "text_encoder")
"""How the names of the text encoders' tensors begin, in any layout."""

PICKLE_MAGIC = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
"""How the contents of pickles begin: zip archives of torch, and protocols 2 to 5."""


class AdapterError(ValueError):
    """Something is wrong with a file, not with the command: the exit status is 1."""

    status = 1


# --- what is safe to open -------------------------------------------------------------------------


def refuse_pickle(path: str | os.PathLike[str], start: bytes = b"") -> None:
    """Raises AdapterError for a pickle, by its name or by `start`, its first bytes."""
    if str(path).endswith(PICKLED) or start.startswith(PICKLE_MAGIC):
        raise AdapterError(
            f"{path} is a pickle: a pickled checkpoint can run any code when it is read, so it was "
            "not opened; use its .safetensors version, or convert it where you trust it: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'x.safetensors')"
        )


def damage(path: Path, error: SafetensorError) -> AdapterError:
    """What is wrong with a file that safetensors does not read. Raises AdapterError for a pickle.

    The name of its first tensor begins after the header's length, 8 bytes that may look like a
    pickle's.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return AdapterError(
            f"{path} is damaged or cut short ({error}); download or export it again"
        )
    refuse_pickle(path, start)
    return AdapterError(f"{path} is no safetensors file; download or export it again as one")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The open safetensors file, which runs no code. Raises AdapterError for a pickle, by name or
    by content, and for what is damaged or no safetensors file.
    """
    refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise damage(path, error) from error


# --- any safetensors file -------------------------------------------------------------------------


def read_header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises AdapterError when it is damaged or none."""
    with opened(path) as file:
        return dict(file.metadata() or {})


def tensor_names(path: Path) -> list[str]:
    """The tensors in a safetensors file. Raises AdapterError when it is damaged or none."""
    with opened(path) as file:
        return list(file.keys())


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header. Raises AdapterError for what is damaged or no safetensors file."""
    with opened(path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        return tensors, dict(file.metadata() or {})


# --- an adapter file ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """All that is asked of an adapter file besides its matrices.

    `shapes` are those of all tensors by name, `alphas` the stated ones by the file's own name of
    the layer, `dtype` is the precision of the matrices, None in a file without any.
    """

    path: Path
    header: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    alphas: dict[str, float]
    dtype: torch.dtype | None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Opens the file once. Raises AdapterError when it is a pickle, damaged or of another
        kind.
        """
        with opened(path) as file:
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            alphas = {
                name.removesuffix(".alpha"): float(file.get_tensor(name))
                for name in names
                if name.endswith(".alpha") and set(shapes[name]) <= {1}
            }
            matrix = next((name for name in names if name.endswith(".weight")), None)
            dtype = None if matrix is None else file.get_tensor(matrix).dtype
            return cls(path, dict(file.metadata() or {}), shapes, alphas, dtype)

    @cached_property
    def identity(self) -> tuple[Path, int, int]:
        """Its place, length and time of writing: two that are alike are one file, unchanged."""
        facts = self.path.stat()
        return self.path.resolve(), facts.st_size, facts.st_mtime_ns

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe in the header; None for what this toolkit did not write. Raises ValueError for
        one that is incomplete.
        """
        return Recipe.from_header(self.header)

    @cached_property
    def down_projections(self) -> list[str]:
        """One tensor name for every adapted layer that diffusers would find."""
        return [name for name in self.shapes if name.endswith(DOWN_PROJECTIONS)]

    @cached_property
    def is_dora(self) -> bool:
        """Whether layers have a magnitude besides their two matrices."""
        return any(name.endswith(".dora_scale") for name in self.shapes)

    @cached_property
    def highest_rank(self) -> int:
        """The largest rank of a layer, 0 without layers."""
        return max((self.shapes[name][0] for name in self.down_projections), default=0)

    @cached_property
    def text_layers(self) -> int:
        """How many layers of text encoders are adapted."""
        return sum(name.startswith(TEXT_KEYS) for name in self.down_projections)

    @cached_property
    def stated_scales(self) -> list[float]:
        """alpha / rank of every layer, smallest first, where the file states an alpha for any; a
        layer without one acts at 1.
        """
        if not self.alphas:
            return []
        scales = []
        for name in self.down_projections:
            layer, rank = name.removesuffix(".lora_down.weight"), self.shapes[name][0]
            scales.append(self.alphas.get(layer, float(rank)) / rank)
        return sorted(scales)
