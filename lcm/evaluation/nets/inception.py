"""Inception-v3 as the Frechet distance was defined on, by torch-fidelity."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lcm.evaluation.features import NetKind, to_pixels
from lcm.evaluation.weights import Weights, tensors_of
from lcm.libraries.torch_fidelity import library

FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS = Weights(
    "inception",
    (FILE,),
    url=f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}",
)


class Inception:
    """The 2048 numbers before the classes."""

    def __init__(self, network: Any, device: torch.device) -> None:
        self.network, self.device = network, device

    def images(self, pictures: list[Image.Image]) -> Tensor:
        """RGB pictures -> [B, 2048]; resized by the network as TensorFlow did."""
        if len({picture.size for picture in pictures}) > 1:
            return torch.cat([self.images([picture]) for picture in pictures])
        (found,) = self.network(to_pixels(pictures).to(self.device))
        return found


def load(places: Sequence[Path], device: torch.device) -> Inception:
    """The network of the file of torch-fidelity, which unpickles what it is given: it is given what
    the loader of weights alone has read.
    """
    buffer = io.BytesIO()
    torch.save(tensors_of(places[0] / FILE), buffer)
    buffer.seek(0)
    fidelity = library("feature_extractor_inceptionv3")
    try:
        network = fidelity.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=buffer
        )
    except RuntimeError as error:  # tensors that are not those of the network
        raise ValueError(
            f"{places[0] / FILE} is not the Inception of torch-fidelity; remove it, and download "
            "it again"
        ) from error
    return Inception(network.to(device), device)


INCEPTION = NetKind(load, (WEIGHTS,))
