"""What a piece of torch code costs, apart from time: kernels, FLOPs, bytes moved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lcm.system.memory import storage_key, tensors_in

aten = torch.ops.aten
ALLOCATIONS = {
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
}
OVERWRITING = {aten.copy_, aten.fill_, aten.zero_, aten._foreach_copy_}
"""Operations that write their first argument without reading it."""


def plain(name: Any) -> str:
    return str(name).removeprefix("aten.")


FORMULAS = {plain(name): formula for name, formula in flop_registry.items()}


def extent(tensor: Tensor) -> int:
    """Bytes of the elements that a kernel reads or writes; what `expand` repeats counts once."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return prod(size for size, stride in pairs if stride != 0 or size == 0) * tensor.element_size()


@dataclass
class Cost:
    """What all calls of one operation take."""

    kernels: int = 0
    flops: int = 0
    bytes: int = 0


class KernelMeter(TorchDispatchMode):
    """Counts the operations that launch work while it is entered, by name.

    A kernel is one ATen operation as it is dispatched below autograd, except allocations and those
    whose results all lie in the memory of their arguments without being written. What a library
    launches beyond that for one operation is not seen. Bytes are those of all tensors read and
    written; FLOPs are those of `torch.utils.flop_counter`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[str, Cost] = {}

    def total(self) -> Cost:
        costs = self.by_name.values()
        return Cost(
            sum(c.kernels for c in costs), sum(c.flops for c in costs), sum(c.bytes for c in costs)
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        name = func._overloadpacket
        read, written = tensors_in((args, kwargs)), tensors_in(results)
        if name in ALLOCATIONS or not (written or func._schema.is_mutable):
            return results
        known = {storage_key(tensor) for tensor in read}
        if not func._schema.is_mutable and all(storage_key(tensor) in known for tensor in written):
            return results
        # the first argument is what is written; _foreach_copy_ returns nothing
        if name in OVERWRITING:
            written = tensors_in(args[0])
            read = tensors_in(args[1:])
        cost = self.by_name.setdefault(plain(name), Cost())
        cost.kernels += 1
        cost.bytes += sum(map(extent, read)) + sum(map(extent, written))
        formula = FORMULAS.get(plain(name).removesuffix("_"))  # in place is the same arithmetic
        if formula is not None:
            cost.flops += formula(*args, **kwargs, out_val=results)
        return results


@contextmanager
def flash_attention() -> Iterator[None]:
    """Attention is the fused kernel of GPUs, which tensors without memory would not choose by
    themselves.

    A mode of torch's would not reach what gradient checkpointing computes again inside `backward`.
    """

    def fused(
        *qkv: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False
    ) -> Tensor:
        assert attn_mask is None and dropout_p == 0.0 and not is_causal
        attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(*qkv)[0]
        return attended

    with patch.object(F, "scaled_dot_product_attention", fused):
        yield
