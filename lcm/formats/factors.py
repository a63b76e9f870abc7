"""An adapter in memory, whatever file it came from: factors by layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lcm.adapter.files import AdapterError
from lcm.adapter.names import COMPONENTS
from lcm.formats.keys import Slot
from lcm.formats.names import ATTENTION

FAMILIES = {
    768: "SD 1.x",
    1024: "SD 2.x",
    1280: "SDXL refiner",
    2048: "SDXL",
    4096: "Kolors",
}
"""Families of base models by the width of the text that their U-Nets read."""


@dataclass(frozen=True)
class Factors:
    """The adapter of one layer: W + alpha / rank `up` `down`.

    `down` is [rank, in] or [rank, in, k, k], `up` is [out, rank] or [out, rank, 1, 1], both on the
    CPU in the file's precision.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def delta(self) -> Tensor:
        """What is added to the layer's weight, in its shape [out, in] or [out, in, k, k],
        float32.
        """
        product = self.up.flatten(1).float() @ self.down.flatten(1).float()
        return (self.scale * product).reshape(len(self.up), *self.down.shape[1:])

    @property
    def rms(self) -> float:
        """Root mean square of the delta's elements; inf where it is beyond all numbers."""
        rows, columns = self.up.flatten(1).shape[0], self.down.flatten(1).shape[1]
        norm = product_norm(self.up.flatten(1).double(), self.down.flatten(1).double())
        return abs(self.scale) * norm / (rows * columns) ** 0.5

    def widened(self, rank: int) -> Factors:
        """The same factors with rows of zeros where the rank is smaller than this."""
        more = rank - self.rank
        return self if more <= 0 else self.padded(rank, self.alpha * rank / self.rank)

    def padded(self, rank: int, alpha: float) -> Factors:
        """The same delta at a higher rank with another alpha: rows of zeros, and `up` rescaled
        where the scale is another.
        """
        up, down = self.up.flatten(1), self.down.flatten(1)
        if (factor := self.scale * rank / alpha) != 1:
            up = (up.float() * factor).to(up.dtype)
        more = rank - self.rank
        up = torch.nn.functional.pad(up, (0, more))
        down = torch.nn.functional.pad(down, (0, 0, 0, more))
        return Factors(
            down.reshape(rank, *self.down.shape[1:]),
            up.reshape(len(up), rank, *self.up.shape[2:]),
            alpha,
        )

    def to(self, dtype: torch.dtype) -> Factors:
        return replace(self, down=cast(self.down, dtype), up=cast(self.up, dtype))

    def on_meta(self) -> Factors:
        """The same without its numbers."""
        return replace(self, down=self.down.to("meta"), up=self.up.to("meta"))


def product_norm(up: Tensor, down: Tensor) -> float:
    """Frobenius norm of `up` `down` in float64, from two matrices of rank x rank: the product
    itself may have a hundred million elements. inf where it is beyond all numbers.
    """
    outer, inner = gram(up), gram(down.T)
    squared = (outer * inner).sum().item()
    if cancels(squared, (outer * inner).abs().sum().item()):
        above, below = (torch.linalg.qr(matrix, mode="r").R for matrix in (up, down.T))
        return (above @ below.T).norm().item()
    return math.inf if math.isnan(squared) else max(squared, 0.0) ** 0.5


def cancels(total: float, size: float) -> bool:
    """Whether a sum in float64 has lost too many digits for its root to have five; `size` is the
    sum of the absolute values.
    """
    return total < 1e-10 * size


@dataclass
class Adapter:
    """Factors by "<component>.<layer as diffusers names it>", and what else the file had.

    `slots` are the file's tensors as they were taken, `notes` what was assumed or left out,
    `warnings` what plays and is seldom meant. `problems` are what could not be understood; those
    among them that stock diffusers plays all the same, so that only another layout is out of reach,
    are in `played`, too. `unread` are the tensors that no layer has, with what they are, `unusable`
    those that could be left out for another to take their place.
    """

    modules: dict[str, Factors]
    header: dict[str, str] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    played: list[str] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    unusable: list[str] = field(default_factory=list)

    def component(self, name: str) -> dict[str, Factors]:
        """Factors by layer of "unet", "text_encoder" or "text_encoder_2"."""
        return {
            key.removeprefix(f"{name}."): f
            for key, f in self.modules.items()
            if key.startswith(f"{name}.")
        }

    @property
    def layouts(self) -> Counter[str]:
        """Number of matrices by layout."""
        return Counter(slot.layout for slot in self.slots if slot.part != "alpha")

    @property
    def dtypes(self) -> list[torch.dtype]:
        """The precisions of the matrices, the most frequent first."""
        return [
            dtype for dtype, _ in Counter(f.up.dtype for f in self.modules.values()).most_common()
        ]

    @property
    def text_width(self) -> int | None:
        """Width of the text that the U-Net reads, from the layers that read it; None without such
        layers.
        """
        readers = [
            f
            for name, f in self.modules.items()
            if name.startswith("unet.") and ".attn2.to_k" in name
        ]
        return readers[0].down.shape[1] if readers else None

    def checked(self) -> Adapter:
        """The adapter itself. Raises AdapterError where there are problems."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            raise AdapterError(f"{self.problems[0]}{more}")
        return self

    def with_modules(self, modules: dict[str, Factors]) -> Adapter:
        return replace(self, modules=modules)


def common(factors: Collection[Factors]) -> tuple[int, float]:
    """Rank and alpha that all can be padded to, so that most need no rescaling."""
    rank = max(f.rank for f in factors)
    return rank, rank * Counter(f.scale for f in factors).most_common(1)[0][0]


def uniform(adapter: Adapter) -> Adapter:
    """The same deltas with one alpha a component, and one rank for its attention layers: diffusers
    reads no other kohya file right.

    A component that is so already stays as it is; elsewhere every layer gets the highest rank,
    exact but for the rounding of `up` where the scales differ.
    """
    modules = dict(adapter.modules)
    for component in COMPONENTS:
        part = {name: f for name, f in modules.items() if name.startswith(f"{component}.")}
        ranks = {
            f.rank for name, f in part.items() if ATTENTION.fullmatch(name) or component != "unet"
        }
        if len({f.alpha for f in part.values()}) > 1 or len(ranks) > 1:
            rank, alpha = common(part.values())
            modules.update({name: f.padded(rank, alpha) for name, f in part.items()})
    return adapter.with_modules(modules)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another precision. From 16 bits by way of float32, which is exact and several
    times as fast.
    """
    slow = tensor.element_size() == 2 and dtype != tensor.dtype
    return (tensor.float() if slow else tensor).to(dtype)


def exact(tensor: Tensor) -> Tensor:
    """The same numbers in float64."""
    return cast(tensor, torch.float64)


def gram(matrix: Tensor) -> Tensor:
    return matrix.T @ matrix
