"""LPIPS between decoded pictures as a loss between landing points (CM, section 5.1), where the package is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from lcm.losses import Loss


def make_lpips(decode: Callable[[Tensor], Tensor], device: torch.device | str) -> Loss:
    """A loss on clean latents [B, C, h, w] -> [B]; `decode` gives pixels [B, 3, H, W] in about [-1, 1], with gradients.

    Raises ValueError when the package is not installed.
    """
    if find_spec("lpips") is None:
        raise ValueError("loss_type lpips needs the package lpips: pip install lpips, or use huber")
    import lpips

    network: Any = lpips.LPIPS(net="vgg", verbose=False).to(device).requires_grad_(False).eval()

    def loss(prediction: Tensor, target: Tensor, huber_c: float | None) -> Tensor:
        with torch.no_grad():
            wanted = decode(target)
        distance: Tensor = network(decode(prediction), wanted)
        return distance.flatten(1).mean(1)

    return loss
