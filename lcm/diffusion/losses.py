"""The distance d between two landing points, one number per sample."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Loss = Callable[[Tensor, Tensor, float | None], Tensor]
"""(prediction, target, huber_c) -> [B]; both inputs [B, C, H, W] float32. huber_c None: the loss's
own c, where it has one.
"""

HUBER_C = 0.001
CAUCHY_C = 0.1


def l2(prediction: Tensor, target: Tensor, huber_c: float | None) -> Tensor:
    """Mean squared difference; `huber_c` has no meaning here."""
    return (prediction - target).square().flatten(1).mean(1)


def l1(prediction: Tensor, target: Tensor, huber_c: float | None) -> Tensor:
    """Mean absolute difference; `huber_c` has no meaning here."""
    return (prediction - target).abs().flatten(1).mean(1)


def huber(prediction: Tensor, target: Tensor, huber_c: float | None) -> Tensor:
    """Pseudo-Huber of every element, sqrt(d^2 + c^2) - c, as the LCM and PCM scripts have it, c =
    0.001: close to l1.
    """
    return pseudo_huber((prediction - target).square(), huber_c or HUBER_C).flatten(1).mean(1)


def huber_norm(prediction: Tensor, target: Tensor, huber_c: float | None) -> Tensor:
    """Pseudo-Huber of the whole difference vector, sqrt(|d|^2 + c^2) - c, with c = 0.00054 sqrt(C H
    W) (iCT, Eq. 8).
    """
    squared = (prediction - target).square().flatten(1)
    return pseudo_huber(squared.sum(1), huber_c or 0.00054 * squared.shape[1] ** 0.5)


def pseudo_huber(squared: Tensor, c: float) -> Tensor:
    """sqrt(d^2 + c^2) - c of d^2, written without the cancellation that makes it negative near 0. c
    > 0.
    """
    return squared / ((squared + c**2).sqrt() + c)


def cauchy(prediction: Tensor, target: Tensor, huber_c: float | None) -> Tensor:
    """log(1 + d^2 / (2 c^2)) of every element: outliers of latents hardly count (sLCT, Eq. 11).

    c = 0.1, since neighbouring landing points differ by about 0.05 in latents of unit variance:
    most elements then count quadratically and outliers by their logarithm; with a c far below them,
    rounding errors would pull hardest. sLCT lowers c as its grid is refined and neighbours come
    closer; on the fixed grids of distillation they stay where they are.
    """
    return (
        ((prediction - target).square() / (2.0 * (huber_c or CAUCHY_C) ** 2))
        .log1p()
        .flatten(1)
        .mean(1)
    )


def energy(prediction: Tensor, target: Tensor, huber_c: float | None) -> Tensor:
    """Energy score E|f - y| - E|f - f'| / 2 from two independent draws: `prediction` [2B, C, H, W],
    `target` [B, C, H, W].

    A proper scoring rule: least when the law of f is that of y (Gneiting & Raftery 2007, Eq. 22),
    where l2 only asks for the mean. Distances are Euclidean over the sample, divided by the root of
    its size. `huber_c` has no meaning here.
    """
    first, second = prediction.chunk(2)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b).square().flatten(1).mean(1) + 1e-12).sqrt()  # the root has no gradient at 0

    return 0.5 * (distance(first, target) + distance(second, target)) - 0.5 * distance(
        first, second
    )


OWN_C: dict[str, float | None] = {"huber": HUBER_C, "huber_norm": None, "cauchy": CAUCHY_C}
"""The losses that have a c, and its default; None follows from the size of the latents."""
