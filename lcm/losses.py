"""The distance d between two landing points, one number per sample."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Loss = Callable[[Tensor, Tensor, float], Tensor]
"""(prediction, target, huber_c) -> [B]; both inputs [B, C, H, W] float32."""


def l2(prediction: Tensor, target: Tensor, huber_c: float) -> Tensor:
    """Mean squared difference; `huber_c` has no meaning here."""
    return (prediction - target).square().flatten(1).mean(1)


def huber(prediction: Tensor, target: Tensor, huber_c: float) -> Tensor:
    """Pseudo-Huber of every element, sqrt(d^2 + c^2) - c, as the LCM and PCM scripts have it: close to l1 for small c."""
    return pseudo_huber((prediction - target).square(), huber_c).flatten(1).mean(1)


def huber_norm(prediction: Tensor, target: Tensor, huber_c: float) -> Tensor:
    """Pseudo-Huber of the whole difference vector, sqrt(|d|^2 + c^2) - c (iCT, Eq. 8, there with c = 0.00054 sqrt(dim))."""
    return pseudo_huber((prediction - target).square().flatten(1).sum(1), huber_c)


def pseudo_huber(squared: Tensor, c: float) -> Tensor:
    """sqrt(d^2 + c^2) - c of d^2, written without the cancellation that makes it negative near 0. c > 0."""
    return squared / ((squared + c**2).sqrt() + c)


LOSSES: dict[str, Loss] = {"l2": l2, "huber": huber, "huber_norm": huber_norm}
