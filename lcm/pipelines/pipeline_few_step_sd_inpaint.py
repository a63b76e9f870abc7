"""Inpainting with Stable Diffusion 1.x / 2.x, of 4 or 9 channels, in one to eight steps."""

from __future__ import annotations

from diffusers import StableDiffusionInpaintPipeline

from lcm.pipelines.few_step_image import FewStepImageMixin


class FewStepStableDiffusionInpaintPipeline(FewStepImageMixin, StableDiffusionInpaintPipeline):
    """`StableDiffusionInpaintPipeline` with an adapter, exactly the steps asked for (4 by default)
    and no guidance by default.
    """

    stock_class = StableDiffusionInpaintPipeline
    pictures = ("image", "mask_image")
