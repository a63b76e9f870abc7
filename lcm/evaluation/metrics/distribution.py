"""How far sets of pictures are from each other, in the features of a network, by torch-fidelity.

No seed occurs on both sides: of the pictures of a prompt the first half of the seeds is compared
with the other half of the teacher's. The floor is the teacher's own first half against its other
half, so that a student that draws from the teacher's distribution has the floor. With one seed the
prompts are halved instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lcm.evaluation.features import NETS
from lcm.evaluation.metric import HALVED, Indices, Metric, Statistic
from lcm.evaluation.scene import Scene
from lcm.libraries.torch_fidelity import PACKAGES, library

NEIGHBOURS = 5
"""Of the balls around pictures that density and coverage count (Naeem et al., 2020)."""
SUBSET = 1000
"""Pictures of a subset of KID."""
Distance = Callable[[Tensor, Tensor], float]
"""Features [N, D] of generated pictures, and those of the reference, float64 -> a number."""


# --- distances ------------------------------------------------------------------------------------


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
    return float(fid.fid_statistics_to_metric(*statistics, False)[fid.KEY_METRIC_FID])


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


def precision_recall(which: str, generated: Tensor, reference: Tensor) -> float:
    """The share of generated pictures among the reference's, or the other way round."""
    prc = library("metric_prc")
    if min(len(generated), len(reference)) < 4:  # three neighbours beside itself
        return float("nan")
    return float(prc.prc_features_to_metric(generated, reference, verbose=False)[which])


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


# --- metrics --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Halves:
    """Features [N, S, D] of prompts and seeds as a first and a second half."""

    features: Tensor

    def of(self, indices: Indices, second: bool) -> Tensor:
        """The features [n, D] of a half of these prompts."""
        found, seeds = self.features[torch.from_numpy(indices)], self.features.shape[1]
        if seeds == 1:
            return found[int(second) :: 2].flatten(0, 1)
        half = seeds // 2
        return (found[:, seeds - half :] if second else found[:, :half]).flatten(0, 1)


def between(net: str, distance: Distance, scene: Scene) -> Statistic:
    """The distance to the teacher's pictures, or to real ones where the scene has them."""
    mine = scene.features.of_drawings(net, scene.drawn).double()
    theirs = scene.features.of_drawings(net, scene.teacher).double()
    everything = np.arange(len(scene.drawn))
    if scene.real is not None:
        reference = scene.features.of_files(net, scene.real).double()

        def to_real(indices: Indices) -> float:
            return distance(mine[torch.from_numpy(indices)].flatten(0, 1), reference)

        floor = distance(theirs.flatten(0, 1), reference)
        return Statistic(
            *(to_real, len(scene.drawn), scene.drawn.pictures, HALVED),
            floor=floor,
            details={"real_pictures": len(reference)},
        )
    ours, teachers = Halves(mine), Halves(theirs)

    def to_teacher(indices: Indices) -> float:
        return distance(ours.of(indices, False), teachers.of(indices, True))

    floor = distance(teachers.of(everything, False), teachers.of(everything, True))
    count = len(ours.of(everything, False))
    return Statistic(to_teacher, len(scene.drawn), count, HALVED, floor=floor)


def metric(net: str, title: str, distance: Distance, about: str, better: str, form: str) -> Metric:
    """The metric of a distance in the features of a network."""
    return Metric(
        title,
        "distribution",
        better,  # type: ignore[arg-type]
        partial(between, net, distance),
        about=about,
        needs=NETS[net].needs,
        packages=PACKAGES,
        of_sets=True,
        form=form,
    )


FD = "Frechet distance of the features"
FD_DINOV2 = metric("dinov2", "FD (DINOv2)", frechet, FD, "lower", ".1f")
FD_INCEPTION = metric("inception", "FD (Inception)", frechet, FD, "lower", ".2f")
KID = "squared MMD of the features, unbiased"
KID_DINOV2 = metric("dinov2", "KID (DINOv2)", kernel, KID, "lower", ".3g")
KID_INCEPTION = metric("inception", "KID (Inception)", kernel, KID, "lower", ".3g")
PRECISION = metric(
    *("dinov2", "precision", partial(precision_recall, "precision")),
    *("share of the pictures that could be of the reference", "higher", ".3f"),
)
RECALL = metric(
    *("dinov2", "recall", partial(precision_recall, "recall")),
    *("share of the reference that could have been drawn", "higher", ".3f"),
)
DENSITY = metric(
    *("dinov2", "density", density),
    *("how densely the pictures lie in the reference", "higher", ".3f"),
)
COVERAGE = metric(
    *("dinov2", "coverage", coverage),
    *("share of the reference that has a picture nearby", "higher", ".3f"),
)
