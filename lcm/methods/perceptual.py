"""LPIPS between decoded pictures as a loss between landing points (CM, section 5.1), where the
package is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lcm.diffusion.losses import Loss


def make_lpips(decode: Callable[[Tensor], Tensor], device: torch.device | str) -> Loss:
    """A loss on clean latents [B, C, h, w] -> [B]; `decode` gives pixels [B, 3, H, W] in about [-1,
    1], with gradients.

    Pictures are compared one by one and decoded again on the way back, so that the activations of
    one are all that is held. Raises ValueError when the package is not installed.
    """
    if find_spec("lpips") is None:
        raise ValueError("loss_type lpips needs the package lpips: pip install lpips, or use huber")
    import lpips

    network: Any = lpips.LPIPS(net="vgg", verbose=False).to(device).requires_grad_(False).eval()

    def distance(prediction: Tensor, wanted: Tensor) -> Tensor:
        compared: Tensor = network(decode(prediction), wanted)
        return compared.flatten()

    def loss(prediction: Tensor, target: Tensor, huber_c: float | None) -> Tensor:
        with torch.no_grad():
            wanted = [decode(one) for one in target.split(1)]
        pairs = zip(prediction.split(1), wanted, strict=True)
        return torch.cat(
            [checkpoint(distance, one, picture, use_reentrant=False) for one, picture in pairs]
        )

    return loss
