"""What of the pictures is wrong, and what of the reference is missing."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from lcm.evaluation.sets import SHARE, metric
from lcm.libraries.torch_fidelity import library


def precision_recall(which: str, generated: Tensor, reference: Tensor) -> float:
    """The share of generated pictures among the reference's, or the other way round."""
    prc = library("metric_prc")
    if min(len(generated), len(reference)) < 4:  # three neighbours beside itself
        return float("nan")
    return float(prc.prc_features_to_metric(generated, reference, verbose=False)[which])


PRECISION = metric(
    *("dinov2", "precision", partial(precision_recall, "precision")),
    *("share of the pictures that could be of the reference", "higher", ".3f"),
    possible=SHARE,
)
RECALL = metric(
    *("dinov2", "recall", partial(precision_recall, "recall")),
    *("share of the reference that could have been drawn", "higher", ".3f"),
    possible=SHARE,
)
