"""How many different pictures the seeds of a prompt give."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lcm.evaluation.metric import Metric, Statistic, of_rows
from lcm.evaluation.nets.dinov2 import WEIGHTS
from lcm.evaluation.scene import Scene


def vendi_score(features: Tensor) -> float:
    """The exponential of the entropy of the eigenvalues of K / n, K the cosines between features
    [n, D]: n vectors at right angles have n, copies 1 (Friedman and Dieng, 2023).
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    shares = torch.linalg.eigvalsh(unit @ unit.T / len(unit)).clamp(min=0)
    shares = shares[shares > 0]
    return float((-(shares * shares.log()).sum()).exp())


def vendi(scene: Scene) -> Statistic:
    """That of the pictures of a prompt, its mean over prompts."""
    features = scene.features.of_drawings("dinov2", scene.drawn)
    return of_rows(np.array([vendi_score(each) for each in features]), scene.drawn.pictures)


VENDI = Metric(
    "Vendi score",
    "diversity",
    "higher",
    vendi,
    about="how many different pictures the seeds of a prompt give, to DINOv2",
    needs=(WEIGHTS,),
    seeds=2,
    of_teacher=True,
    form=".3f",
)
