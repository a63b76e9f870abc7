"""Pictures from pictures with Stable Diffusion 1.x / 2.x in one to eight steps."""

from __future__ import annotations

from diffusers import StableDiffusionImg2ImgPipeline

from lcm.pipelines.few_step_image import FewStepImageMixin


class FewStepStableDiffusionImg2ImgPipeline(FewStepImageMixin, StableDiffusionImg2ImgPipeline):
    """`StableDiffusionImg2ImgPipeline` with an adapter, exactly the steps asked for (4 by default)
    and no guidance by default.
    """

    stock_class = StableDiffusionImg2ImgPipeline
