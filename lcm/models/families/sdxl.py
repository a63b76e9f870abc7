"""Stable Diffusion XL: two text encoders, pooled embeddings, time ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lcm.models.conditioning import Conditioning, ImageSize
from lcm.models.families.base import Family
from lcm.models.long_prompts import unconditional_in_chunks
from lcm.system.transfers import sent


class StableDiffusionXL(Family):
    """The unconditional prompt is zeros or "" as `force_zeros_for_empty_prompt` of the checkpoint
    says.
    """

    name = "sdxl"

    @torch.no_grad()
    def embed_seen(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """[B, 77, D] of both encoders, pooled [B, P] of the second."""
        embeds, _, pooled, _ = self._encode(list(prompts), guided=False)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def condition(self, embeds: dict[str, Tensor], sizes: Sequence[ImageSize]) -> Conditioning:
        """The embeddings with time ids [B, 6]."""
        return Conditioning(
            **embeds, time_ids=sent(self._time_ids(sizes), embeds["prompt_embeds"].device)
        )

    @cached_property
    def unconditional_row(self) -> tuple[Tensor, ...]:
        """[1, L, D] and pooled [1, P]."""
        if self.chunks > 1:
            return tuple(unconditional_in_chunks(self.pipe, self.chunks).values())
        with torch.no_grad():
            _, embeds, _, pooled = self._encode([""], guided=True)
        return embeds, pooled

    def unconditional(self, like: Conditioning) -> Conditioning:
        rows = len(like.prompt_embeds)
        embeds, pooled = (part.to(like.prompt_embeds.device) for part in self.unconditional_row)
        return Conditioning(embeds.expand(rows, -1, -1), pooled.expand(rows, -1), like.time_ids)

    def _encode(self, prompts: list[str], guided: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        result: tuple[Tensor, Tensor, Tensor, Tensor] = self.stock_encode(
            prompt=prompts,
            device=self.text_encoders()[0].device,
            do_classifier_free_guidance=guided,
            clip_skip=self.clip_skip,
        )
        return result

    @staticmethod
    def _time_ids(sizes: Sequence[ImageSize]) -> Tensor:
        """original size, crop corner, target size, each (vertical, horizontal)."""
        return torch.tensor(
            [
                (s.original_height, s.original_width, s.crop_top, s.crop_left, s.height, s.width)
                for s in sizes
            ],
            dtype=torch.float32,
        )

    def pipeline_options(self) -> dict[str, Any]:
        return {"force_zeros_for_empty_prompt": self.pipe.config.force_zeros_for_empty_prompt}
