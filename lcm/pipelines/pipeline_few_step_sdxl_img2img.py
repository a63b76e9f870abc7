"""Pictures from pictures with Stable Diffusion XL in one to eight steps."""

from __future__ import annotations

from diffusers import StableDiffusionXLImg2ImgPipeline

from lcm.pipelines.few_step_image import FewStepImageMixin


class FewStepStableDiffusionXLImg2ImgPipeline(FewStepImageMixin, StableDiffusionXLImg2ImgPipeline):
    """`StableDiffusionXLImg2ImgPipeline` with an adapter, exactly the steps asked for (4 by
    default) and no guidance by default.
    """

    stock_class = StableDiffusionXLImg2ImgPipeline
