"""What is cut out of a picture: chosen from its size and three uniform numbers alone, before it is
decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lcm.data.config import INTERPOLATION, SampleConfig
from lcm.models.conditioning import ImageSize

Shape = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Crop:
    """A picture, upright, is resized to `resized` (width, height) pixels, mirrored or not, and cut
    as `size` says.

    The corner of the cut is that in the mirrored picture, so that SDXL is conditioned on that of
    the picture that it sees.
    """

    size: ImageSize
    resized: tuple[int, int]
    mirrored: bool

    def pixels(self, image: Image.Image, interpolation: str) -> Tensor:
        """[3, height, width] float32 in [-1, 1]."""
        if image.size != self.resized:
            image = image.resize(self.resized, INTERPOLATION[interpolation])
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x, y = self.size.crop_left, self.size.crop_top
        cut = image.crop((x, y, x + self.size.width, y + self.size.height))
        return torch.from_numpy(np.array(cut)).permute(2, 0, 1).float() / 127.5 - 1.0


def choose_crop(
    samples: SampleConfig, picture: Shape, target: Shape, flip: float, top: float, left: float
) -> Crop:
    """A picture of one (height, width) is made as small as covers the other; the uniforms in [0, 1)
    choose the mirror and the corner, where flags let them.
    """
    (height, width), (down, across) = picture, target
    scale, resized = max(down / height, across / width), (width, height)
    if scale != 1.0:
        resized = (max(across, round(width * scale)), max(down, round(height * scale)))
    if samples.center_crop:
        top = left = 0.5
    corner = int(top * (resized[1] - down + 1)), int(left * (resized[0] - across + 1))
    return Crop(
        ImageSize(height, width, *corner, down, across),
        resized,
        mirrored=samples.random_flip and flip < 0.5,
    )


def uncropped(resolution: int) -> ImageSize:
    """The size that SDXL is conditioned on for a picture that was never cropped, the default of its
    pipeline.
    """
    return ImageSize(resolution, resolution, 0, 0, resolution, resolution)
