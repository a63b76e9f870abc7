"""Gradient checkpointing that keeps what is expensive: --gradient_checkpointing selective.

Checkpointing as it is known keeps the inputs of blocks and computes the rest of a block again on
the way back. Here the results of expensive operations are kept as well: 3 x 3 convolutions,
attention over pixels, products with wide matrices. What is computed again is large and cheap:
norms, activations, sums, narrow products. Nothing is approximated: the same kernels see the same
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry

from lcm.libraries.torch import selective_contexts

EXPENSIVE = 2048
"""FLOPs for each number of a result from which on it is kept. A product with 1024 inputs has as
many. Of Stable Diffusion 1.5, linear layers of up to 640 inputs are computed again and no 3 x 3
convolution; `benchmarks/README.md` counts what that costs.
"""

aten = torch.ops.aten
FORMULAS = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        aten._scaled_dot_product_flash_attention
    ],
}
"""Operation -> FLOPs of a call."""


class KeepExpensive:
    """The policy for one call of a block: whether the result of an operation is kept."""

    def __init__(self) -> None:
        # memory of kept results, which lives as long as the block's graph
        self.kept: set[int] = set()

    def __call__(self, operation: Any, result: Any, *args: Any, **kwargs: Any) -> bool:
        # what writes onto a kept result must not do so again: the result is kept as it was at last
        if is_expensive(operation, result, *args, **kwargs) or (
            operation._schema.is_mutable and memory(args[0]) & self.kept
        ):
            self.kept |= memory(result)
            return True
        return False


def memory(result: Any) -> set[int]:
    """The addresses of the memory behind a tensor, or behind those in a tuple."""
    parts = result if isinstance(result, tuple | list) else (result,)
    return {part.untyped_storage()._cdata for part in parts if isinstance(part, Tensor)}


def is_expensive(operation: Any, result: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether the operation takes EXPENSIVE FLOPs or more for each number of its result."""
    formula = FORMULAS.get(operation._overloadpacket)
    if formula is None:
        return False
    main = result[0] if isinstance(result, tuple) else result
    return bool(formula(*args, **kwargs, out_val=result) >= EXPENSIVE * main.numel())


def checkpoint_selectively(module: nn.Module, *args: Any) -> Any:
    """The module's output for `args`: what diffusers' `enable_gradient_checkpointing` takes as its
    function.
    """
    return checkpoint(
        module.__call__,
        *args,
        use_reentrant=False,
        context_fn=lambda: selective_contexts(KeepExpensive()),
    )


def checkpoint_activations(unet: Any, mode: str) -> None:
    """Makes a U-Net of diffusers in training recompute as `mode` says, a value of
    --gradient_checkpointing.
    """
    if mode != "no":
        unet.enable_gradient_checkpointing(checkpoint_selectively if mode == "selective" else None)


@contextmanager
def recomputing(unet: Any, mode: str, otherwise: str) -> Iterator[None]:
    """The U-Net recomputes as `mode` says inside the block, as `otherwise` says after it."""
    try:
        checkpoint_activations(unet, mode)
        yield
    finally:
        unet.disable_gradient_checkpointing()
        checkpoint_activations(unet, otherwise)
