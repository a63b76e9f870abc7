"""Classifier-free guidance. One convention everywhere: `guidance_scale` as in diffusers pipelines,
1 = no guidance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """Which guidance_scale the teacher gets: uniform in [low, high], or one value per phase, the
    noisiest first.
    """

    low: float = 1.0
    high: float = 1.0
    per_phase: tuple[float, ...] = ()
    num_train_timesteps: int = 1000

    @property
    def is_none(self) -> bool:
        """Whether the teacher is not guided at all, which saves half its cost."""
        return set(self.per_phase or (self.low, self.high)) == {1.0}

    def __call__(self, t: Tensor, uniform: Tensor) -> Tensor:
        """[B] float32 for times [B] int64 and numbers [B] in [0, 1)."""
        if not self.per_phase:
            return self.low + (self.high - self.low) * uniform
        phase = t * len(self.per_phase) // self.num_train_timesteps
        # not by a table, which each step would send to the device
        scales = [(phase == i) * scale for i, scale in enumerate(reversed(self.per_phase))]
        return torch.stack(scales).sum(0)


def guidance_scale_to_w(guidance_scale: Tensor) -> Tensor:
    """The w of the guidance and LCM papers, in which 0 means no guidance: w = guidance_scale -
    1.
    """
    return guidance_scale - 1.0


def guide(cond: Tensor, uncond: Tensor, guidance_scale: Tensor) -> Tensor:
    """cond + w (cond - uncond) on raw network outputs [B, C, H, W], in float32 (LCM, Eq. 13 with w
    = guidance_scale - 1).

    Guiding raw outputs is guiding x0 and eps: the weights 1 + w and -w sum to 1 and the maps to x0
    and eps are affine. At guidance_scale 1 the result is `cond` exactly. `guidance_scale`: [B].
    """
    cond, uncond = cond.float(), uncond.float()
    return cond + guidance_scale_to_w(guidance_scale.float()).view(-1, 1, 1, 1) * (cond - uncond)
