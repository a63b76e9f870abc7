"""What a U-Net gets besides the latents and the time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSize:
    """What SDXL gets to know about an image, in pixels: its size before resizing, the crop's
    corner, the size of the crop.
    """

    original_height: int
    original_width: int
    crop_top: int
    crop_left: int
    height: int
    width: int


@dataclass(frozen=True)
class Conditioning:
    """What a U-Net gets besides (x_t, t): [B, L, D] embeddings, and for SDXL pooled [B, P] and
    time_ids [B, 6].

    `guidance_scale` [B] float32 is read by U-Nets with a w-embedding only.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None = None
    time_ids: Tensor | None = None
    guidance_scale: Tensor | None = None

    def unet_kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"encoder_hidden_states": self.prompt_embeds}
        if self.pooled_prompt_embeds is not None:
            kwargs["added_cond_kwargs"] = {
                "text_embeds": self.pooled_prompt_embeds,
                "time_ids": self.time_ids,
            }
        return kwargs

    def with_guidance_scale(self, guidance_scale: Tensor) -> Conditioning:
        return dataclasses.replace(self, guidance_scale=guidance_scale)

    def map(self, function: Callable[[Tensor], Tensor]) -> Conditioning:
        return Conditioning(*(None if part is None else function(part) for part in self._parts()))  # type: ignore[arg-type]

    def cat(self, other: Conditioning) -> Conditioning:
        """Two batches joined into one, self first."""
        pairs = zip(self._parts(), other._parts(), strict=True)
        return Conditioning(
            *(  # type: ignore[arg-type]
                None if a is None or b is None else torch.cat([a, b]) for a, b in pairs
            )
        )

    def where(self, mask: Tensor, other: Conditioning) -> Conditioning:
        """The rows of `other` where `mask` [B] is true."""

        def choose(mine: Tensor | None, theirs: Tensor | None) -> Tensor | None:
            if mine is None or theirs is None:
                return mine
            return torch.where(mask.view(-1, *[1] * (mine.dim() - 1)), theirs, mine)

        return Conditioning(*map(choose, self._parts(), other._parts()))  # type: ignore[arg-type]

    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.prompt_embeds, self.pooled_prompt_embeds, self.time_ids, self.guidance_scale
