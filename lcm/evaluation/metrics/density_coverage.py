"""Precision and recall by balls that one odd picture does not widen: density and coverage (Naeem et
al., 2020), which torch-fidelity has not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lcm.evaluation.sets import POSITIVE, SHARE, metric

NEIGHBOURS = 5
"""Each picture's ball reaches to this neighbour, 5 in the paper."""


def balls(generated: Tensor, reference: Tensor) -> Tensor | None:
    """[N, M]: whether generated picture i lies in the ball around picture j of the reference that
    reaches to its fifth neighbour; None where there are too few for one.
    """
    if len(reference) <= NEIGHBOURS or not len(generated):
        return None
    radii = torch.cdist(reference, reference).kthvalue(NEIGHBOURS + 1).values
    return torch.cdist(generated, reference) <= radii


def density(generated: Tensor, reference: Tensor) -> float:
    """In how many balls a generated picture lies, over the number of neighbours: about 1, and more
    where pictures gather where the reference is dense.
    """
    inside = balls(generated, reference)
    return float("nan") if inside is None else float(inside.double().sum(1).mean() / NEIGHBOURS)


def coverage(generated: Tensor, reference: Tensor) -> float:
    """The share of the reference's pictures that have a generated one in their ball."""
    inside = balls(generated, reference)
    return float("nan") if inside is None else float(inside.any(dim=0).double().mean())


DENSITY = metric(
    *("dinov2", "density", density),
    *("how densely the pictures lie in the reference", "higher", ".3f"),
    possible=POSITIVE,
)
COVERAGE = metric(
    *("dinov2", "coverage", coverage),
    *("share of the reference that has a picture nearby", "higher", ".3f"),
    possible=SHARE,
)
