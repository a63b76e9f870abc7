"""Stable Diffusion XL in one to eight steps."""

from __future__ import annotations

from diffusers import StableDiffusionXLPipeline

from lcm.pipelines.few_step import FewStepMixin


class FewStepStableDiffusionXLPipeline(FewStepMixin, StableDiffusionXLPipeline):
    """`StableDiffusionXLPipeline` with an adapter, 4 steps and no guidance by default."""

    stock_class = StableDiffusionXLPipeline
