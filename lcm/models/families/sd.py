"""Stable Diffusion 1.x and 2.x, one family: they differ only in facts that the checkpoint
states.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lcm.models.conditioning import Conditioning, ImageSize
from lcm.models.families.base import Family
from lcm.models.long_prompts import unconditional_in_chunks


class StableDiffusion(Family):
    """One text encoder, "" as the unconditional prompt."""

    name = "sd"

    @torch.no_grad()
    def embed_seen(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """[B, 77, D]."""
        return {"prompt_embeds": self._encode(list(prompts), self.clip_skip)}

    def condition(self, embeds: dict[str, Tensor], sizes: Sequence[ImageSize]) -> Conditioning:
        """The image sizes have no meaning here."""
        return Conditioning(**embeds)

    @cached_property
    def unconditional_row(self) -> tuple[Tensor, ...]:
        """[1, L, D]."""
        if self.chunks > 1:
            return tuple(unconditional_in_chunks(self.pipe, self.chunks).values())
        with torch.no_grad():
            return (self._encode([""], None),)

    def _encode(self, prompts: list[str], clip_skip: int | None) -> Tensor:
        device = self.pipe.text_encoder.device
        embeds: Tensor
        embeds, _ = self.stock_encode(prompts, device, 1, False, clip_skip=clip_skip)
        return embeds

    def unconditional(self, like: Conditioning) -> Conditioning:
        (embeds,) = self.unconditional_row
        return Conditioning(
            embeds.to(like.prompt_embeds.device).expand(len(like.prompt_embeds), -1, -1)
        )

    def pipeline_options(self) -> dict[str, Any]:
        return {"requires_safety_checker": False}
