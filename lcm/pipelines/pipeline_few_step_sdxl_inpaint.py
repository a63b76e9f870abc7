"""Inpainting with Stable Diffusion XL, of 4 or 9 channels, in one to eight steps."""

from __future__ import annotations

from diffusers import StableDiffusionXLInpaintPipeline

from lcm.pipelines.few_step_image import FewStepImageMixin


class FewStepStableDiffusionXLInpaintPipeline(FewStepImageMixin, StableDiffusionXLInpaintPipeline):
    """`StableDiffusionXLInpaintPipeline` with an adapter, exactly the steps asked for (4 by
    default) and no guidance by default.
    """

    stock_class = StableDiffusionXLInpaintPipeline
    pictures = ("image", "mask_image")
