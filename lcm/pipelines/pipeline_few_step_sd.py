"""Stable Diffusion 1.x / 2.x in one to eight steps."""

from __future__ import annotations

from diffusers import StableDiffusionPipeline

from lcm.pipelines.few_step import FewStepMixin


class FewStepStableDiffusionPipeline(FewStepMixin, StableDiffusionPipeline):
    """`StableDiffusionPipeline` with an adapter, 4 steps and no guidance by default."""

    stock_class = StableDiffusionPipeline
