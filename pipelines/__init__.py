"""Few-step text-to-image pipelines in the conventions of diffusers."""

from __future__ import annotations

from pipelines.pipeline_few_step_sd import FewStepStableDiffusionPipeline
from pipelines.pipeline_few_step_sdxl import FewStepStableDiffusionXLPipeline

__all__ = ["FewStepStableDiffusionPipeline", "FewStepStableDiffusionXLPipeline"]
