"""The kernel distance of sets, in the features of DINOv2 and of Inception."""

from __future__ import annotations

from torch import Tensor

from lcm.evaluation.sets import metric
from lcm.libraries.torch_fidelity import library

SUBSET = 1000
"""Pictures of a subset of KID."""


def kernel(generated: Tensor, reference: Tensor) -> float:
    """KID: the unbiased squared MMD of a cubic kernel, which may lie a little below 0."""
    kid, fewest = library("metric_kid"), min(len(generated), len(reference))
    if fewest < 2:
        return float("nan")
    size = min(SUBSET, fewest)
    # one subset is all there is where it holds every picture
    subsets = 1 if len(generated) == len(reference) == size else 100
    found = kid.kid_features_to_metric(
        generated, reference, kid_subset_size=size, kid_subsets=subsets, verbose=False
    )
    return float(found[kid.KEY_METRIC_KID_MEAN])


KID = "squared MMD of the features, unbiased"
KID_DINOV2 = metric("dinov2", "KID (DINOv2)", kernel, KID, "lower", ".3g")
KID_INCEPTION = metric("inception", "KID (Inception)", kernel, KID, "lower", ".3g")
