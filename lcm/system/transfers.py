"""The only ways of tensors between the host and the device while a run makes steps or draws: each
may let one of the two wait for the other.

`benchmarks/device_law/` lets a step pass on a device without memory, where any other way
raises.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`. The host goes on at once: work that the device still has to do is not
    waited for, as a plain `to` does on CUDA.

    Of a tensor that is no longer changed: elsewhere than on CUDA, which copies it before it
    returns, the copy may be made later, so that there the host waits.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def fetched(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, without gradients. The host waits until the device has computed it,
    and the device then waits for what the host has not yet asked it to do: once a step.
    """
    return tensor.detach().cpu()
