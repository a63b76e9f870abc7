"""What an Apple GPU cannot hold."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lcm.system.memory import tensors_in


class WithoutDouble(TorchDispatchMode):
    """Raises TypeError, as mps does, where a tensor of float64 comes out of an operation."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        if any(found.dtype == torch.float64 for found in tensors_in(results)):
            raise TypeError(f"{func} gives float64, which the MPS framework does not support")
        return results
