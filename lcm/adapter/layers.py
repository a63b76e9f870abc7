"""The adapter's layers in training: PEFT's own, computed with fewer kernels, less memory and in the
frozen weights' precision.

PEFT writes W x, B A x, that times alpha / rank, and the sum as tensors of full size; beside frozen
weights in low precision it computes the adapter's share in float32. Here B's product is added onto
W x in place, and A and B are read as copies in the precision of W, made once a pass. With float32
weights nothing is copied, and results differ from PEFT's by the order of summation at most.

Where no gradient is asked for, as of the target network, W + alpha / rank B A is cheaper as soon as
there are more rows of x than the sum costs: it is computed for the one pass, never added in place,
which would drift.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional as F

ADAPTER = "default"
"""The name of the one adapter in training."""


def cast_all(tensors: list[Tensor] | tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Copies in another precision, contiguous, by one call for all."""
    copies = [
        torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
        for tensor in tensors
    ]
    torch._foreach_copy_(copies, tensors)
    return tuple(copies)


class Lowered(torch.autograd.Function):
    """`cast_all` of float32 tensors; the gradients of the copies come back in float32."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *masters: Tensor) -> tuple[Tensor, ...]:
        return cast_all(masters, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *cast_all(gradients, torch.float32)


class LoraLinear(lora.Linear):
    """W x + b + alpha / rank B A x of [..., in] -> [..., out]."""

    lowered: tuple[Tensor, ...] | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        down, up = factors(self)
        # of a matrix the result is no view, so that adding to it in place costs no copy
        rows = x.reshape(-1, x.shape[-1])
        if sum_is_cheaper(self, len(rows), self.base_layer.weight.shape):
            weight = torch.addmm(self.base_layer.weight, up, down, alpha=self.scaling[ADAPTER])
            return F.linear(x, weight, self.base_layer.bias)
        hidden = F.linear(self.lora_dropout[ADAPTER](rows), down)
        out: Tensor = self.base_layer(rows).addmm_(hidden, up.t(), alpha=self.scaling[ADAPTER])
        return out.view(*x.shape[:-1], -1)


class LoraConv2d(lora.Conv2d):
    """W * x + b + alpha / rank B (A * x) of [N, in, H, W] -> [N, out, H', W']; A has the kernel of
    W, B is 1 x 1.
    """

    lowered: tuple[Tensor, ...] | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        (down, up), first, base = factors(self), self.lora_A[ADAPTER], self.base_layer
        places = x.shape[0] * x.shape[2] * x.shape[3] // math.prod(base.stride)
        if sum_is_cheaper(self, places, torch.Size([base.out_channels, base.weight[0].numel()])):
            sums = torch.addmm(
                base.weight.flatten(1), up.flatten(1), down.flatten(1), alpha=self.scaling[ADAPTER]
            )
            return F.conv2d(x, sums.view_as(base.weight), base.bias, base.stride, base.padding)
        hidden = F.conv2d(self.lora_dropout[ADAPTER](x), down, None, first.stride, first.padding)
        out: Tensor = base(x).add_(F.conv2d(hidden, up), alpha=self.scaling[ADAPTER])
        return out


LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: LoraLinear, nn.Conv2d: LoraConv2d}
"""Adapted layer -> what takes its place, for PEFT's registry."""


def sum_is_cheaper(layer: Any, rows: int, shape: torch.Size) -> bool:
    """Whether W + B A of `shape` [out, in] costs less than A and B applied to `rows` rows, in
    multiplications for each rank.
    """
    has_dropout = layer.training and not isinstance(layer.lora_dropout[ADAPTER], nn.Identity)
    return not torch.is_grad_enabled() and not has_dropout and shape.numel() < rows * sum(shape)


def masters(layer: Any) -> tuple[Tensor, Tensor]:
    """A and B of a layer as they are trained, in float32."""
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight


def squared_norm(layer: Any) -> Tensor:
    """|alpha / rank B A|^2, Frobenius, of a layer: tr(B^T B A A^T), from matrices of rank x rank. B
    A itself is never made.
    """
    down, up = (master.detach().flatten(1) for master in masters(layer))
    return layer.scaling[ADAPTER] ** 2 * ((up.t() @ up) * (down @ down.t())).sum()


def factors(layer: Any) -> tuple[Tensor, ...]:
    """A and B of a layer in the precision of its frozen weight."""
    if layer.lowered is not None:
        lowered: tuple[Tensor, ...] = layer.lowered
        return lowered
    return tuple(master.to(layer.base_layer.weight.dtype) for master in masters(layer))


def trained_layers(unet: nn.Module) -> list[Any]:
    """The layers of the adapter in training; walking through a U-Net is slow, so keep them."""
    return [module for module in unet.modules() if isinstance(module, LoraLinear | LoraConv2d)]


def lower_before_passes(unet: nn.Module) -> None:
    """Lets every call of `unet` from now on begin with copies of all A and B in the precision of
    its frozen weights.

    The copies stay until the next call: gradient checkpointing reads them again on the way back.
    """
    layers = trained_layers(unet)

    def lower(module: nn.Module, args: Any) -> None:
        dtype = layers[0].base_layer.weight.dtype
        if dtype == torch.float32 or layers[0].disable_adapters:
            return
        trained = [master for layer in layers for master in masters(layer)]
        copies = (
            Lowered.apply(dtype, *trained) if torch.is_grad_enabled() else cast_all(trained, dtype)
        )
        for i, layer in enumerate(layers):
            layer.lowered = copies[2 * i : 2 * i + 2]

    unet.register_forward_pre_hook(lower)


@contextmanager
def lowered_kept(layers: list[Any]) -> Iterator[None]:
    """The copies that the last pass has left in these layers are there again after the block,
    whatever passes it makes.
    """
    former = [layer.lowered for layer in layers]
    try:
        yield
    finally:
        for layer, copies in zip(layers, former, strict=True):
            layer.lowered = copies
