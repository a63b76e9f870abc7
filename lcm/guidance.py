"""Classifier-free guidance. One convention everywhere: `guidance_scale` as in diffusers pipelines, 1 = no guidance."""

from __future__ import annotations

from torch import Tensor


def guidance_scale_to_w(guidance_scale: Tensor) -> Tensor:
    """The w of the guidance and LCM papers, in which 0 means no guidance: w = guidance_scale - 1."""
    return guidance_scale - 1.0


def guide(cond: Tensor, uncond: Tensor, guidance_scale: Tensor) -> Tensor:
    """cond + w (cond - uncond) on raw network outputs [B, C, H, W], in float32 (LCM, Eq. 13 with w = guidance_scale - 1).

    Guiding raw outputs is guiding x0 and eps: the weights 1 + w and -w sum to 1 and the maps to x0 and eps are affine.
    At guidance_scale 1 the result is `cond` exactly. `guidance_scale`: [B].
    """
    cond, uncond = cond.float(), uncond.float()
    return cond + guidance_scale_to_w(guidance_scale.float()).view(-1, 1, 1, 1) * (cond - uncond)
