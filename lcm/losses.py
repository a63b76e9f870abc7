"""The distance d between two landing points, one number per sample."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Loss = Callable[[Tensor, Tensor, float], Tensor]
"""(prediction, target, huber_c) -> [B]; both inputs [B, C, H, W] float32."""


def l2(prediction: Tensor, target: Tensor, huber_c: float) -> Tensor:
    """Mean squared difference; `huber_c` has no meaning here."""
    return (prediction - target).square().flatten(1).mean(1)


def l1(prediction: Tensor, target: Tensor, huber_c: float) -> Tensor:
    """Mean absolute difference; `huber_c` has no meaning here."""
    return (prediction - target).abs().flatten(1).mean(1)


def huber(prediction: Tensor, target: Tensor, huber_c: float) -> Tensor:
    """Pseudo-Huber of every element, sqrt(d^2 + c^2) - c, as the LCM and PCM scripts have it: close to l1 for small c."""
    return pseudo_huber((prediction - target).square(), huber_c).flatten(1).mean(1)


def huber_norm(prediction: Tensor, target: Tensor, huber_c: float) -> Tensor:
    """Pseudo-Huber of the whole difference vector, sqrt(|d|^2 + c^2) - c (iCT, Eq. 8, there with c = 0.00054 sqrt(dim))."""
    return pseudo_huber((prediction - target).square().flatten(1).sum(1), huber_c)


def pseudo_huber(squared: Tensor, c: float) -> Tensor:
    """sqrt(d^2 + c^2) - c of d^2, written without the cancellation that makes it negative near 0. c > 0."""
    return squared / ((squared + c**2).sqrt() + c)


def cauchy(prediction: Tensor, target: Tensor, huber_c: float) -> Tensor:
    """log(1 + d^2 / (2 c^2)) of every element: outliers of latents hardly count (sLCT, Eq. 11)."""
    return ((prediction - target).square() / (2.0 * huber_c**2)).log1p().flatten(1).mean(1)


def energy(prediction: Tensor, target: Tensor, huber_c: float) -> Tensor:
    """Energy score E|f - y| - E|f - f'| / 2 from two independent draws: `prediction` [2B, C, H, W], `target` [B, C, H, W].

    A proper scoring rule: least when the law of f is that of y (Gneiting & Raftery 2007, Eq. 22), where l2 only asks for the
    mean. Distances are Euclidean over the sample, divided by the root of its size. `huber_c` has no meaning here.
    """
    first, second = prediction.chunk(2)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b).square().flatten(1).mean(1) + 1e-12).sqrt()  # the root has no gradient at 0

    return 0.5 * (distance(first, target) + distance(second, target)) - 0.5 * distance(first, second)


LOSSES: dict[str, Loss] = {
    "l2": l2,
    "l1": l1,
    "huber": huber,
    "huber_norm": huber_norm,
    "cauchy": cauchy,
    "energy": energy,
}
