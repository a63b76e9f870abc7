"""DINOv2, whose distances agree better with people than those of Inception (Stein et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Dinov2Model

from lcm.adapter.model_folder import load_model
from lcm.evaluation.features import NetKind, squared
from lcm.evaluation.weights import Weights

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHTS = Weights(
    "dinov2-large", ("model.safetensors", "config.json"), repo="facebook/dinov2-large"
)
SIDE = 224
"""Pixels, 16 patches of 14."""


class Dino:
    """The normed class token of the last layer."""

    def __init__(self, network: Any, device: torch.device) -> None:
        self.network, self.device = network, device

    def images(self, pictures: list[Image.Image]) -> Tensor:
        """RGB pictures -> [B, 1024]."""
        pixels = torch.stack([squared(picture, SIDE, MEAN, STD) for picture in pictures])
        found: Tensor = self.network(pixels.to(self.device)).pooler_output
        return found


def load(places: Sequence[Path], device: torch.device) -> Dino:
    """From a folder as the hub has it."""
    return Dino(load_model(Dinov2Model, places[0]).eval().to(device), device)


DINOV2 = NetKind(load, (WEIGHTS,), revision=2)
