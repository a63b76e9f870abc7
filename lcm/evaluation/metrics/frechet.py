"""The Frechet distance of sets, in the features of DINOv2 and of Inception."""

from __future__ import annotations

import torch
from torch import Tensor

from lcm.evaluation.sets import POSITIVE, metric
from lcm.libraries.torch_fidelity import library


def frechet(generated: Tensor, reference: Tensor) -> float:
    """The Frechet distance of normal distributions with the same means and covariances. Features
    are turned to the space that both span, where nothing of it changes and the matrices are no
    larger than there are pictures.
    """
    if min(len(generated), len(reference)) < 2:
        return float("nan")
    both = torch.cat([generated, reference])
    if both.shape[1] > len(both):
        basis = torch.linalg.qr(both.T).Q
        generated, reference = generated @ basis, reference @ basis
    fid = library("metric_fid")
    statistics = map(fid.fid_features_to_statistics, (generated, reference))
    found = float(fid.fid_statistics_to_metric(*statistics, False)[fid.KEY_METRIC_FID])
    return max(found, 0.0)  # of equal sets it is rounding


FD = "Frechet distance of the features"
FD_DINOV2 = metric("dinov2", "FD (DINOv2)", frechet, FD, "lower", ".1f", POSITIVE)
FD_INCEPTION = metric("inception", "FD (Inception)", frechet, FD, "lower", ".2f", POSITIVE)
