"""Few-step pipelines in the conventions of diffusers."""

from __future__ import annotations

from lcm.pipelines.pipeline_few_step_sd import FewStepStableDiffusionPipeline
from lcm.pipelines.pipeline_few_step_sd_img2img import FewStepStableDiffusionImg2ImgPipeline
from lcm.pipelines.pipeline_few_step_sd_inpaint import FewStepStableDiffusionInpaintPipeline
from lcm.pipelines.pipeline_few_step_sdxl import FewStepStableDiffusionXLPipeline
from lcm.pipelines.pipeline_few_step_sdxl_img2img import FewStepStableDiffusionXLImg2ImgPipeline
from lcm.pipelines.pipeline_few_step_sdxl_inpaint import FewStepStableDiffusionXLInpaintPipeline

__all__ = [
    "FewStepStableDiffusionImg2ImgPipeline",
    "FewStepStableDiffusionInpaintPipeline",
    "FewStepStableDiffusionPipeline",
    "FewStepStableDiffusionXLImg2ImgPipeline",
    "FewStepStableDiffusionXLInpaintPipeline",
    "FewStepStableDiffusionXLPipeline",
]
