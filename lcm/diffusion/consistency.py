"""The consistency function: from any point x_t of a trajectory to its landing point x_s."""

from __future__ import annotations

import torch
from torch import Tensor

from lcm.diffusion.schedule import NoiseSchedule

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


def boundary_scalings(
    t: Tensor, timestep_scaling: float = TIMESTEP_SCALING
) -> tuple[Tensor, Tensor]:
    """c_skip and c_out [B, 1, 1, 1] float32 of LCM, as `LCMScheduler` has them.

    c_skip = sigma_d^2 / (u^2 + sigma_d^2), c_out = u / sqrt(u^2 + sigma_d^2), u = timestep_scaling
    * t. Unlike CM (Eq. 5) c_out has no factor sigma_d, so this is an impulse: the identity at t =
    0, x0 elsewhere.
    """
    scaled = t.clamp(min=0).float().view(-1, 1, 1, 1) * timestep_scaling
    return SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2), scaled / (scaled**2 + SIGMA_DATA**2).sqrt()


def land(
    schedule: NoiseSchedule,
    output: Tensor,
    x_t: Tensor,
    t: Tensor,
    s: Tensor,
    *,
    timestep_scaling: float | None = TIMESTEP_SCALING,
) -> Tensor:
    """f(x_t, t -> s): where a network that answers `output` at (x_t, t) sends x_t. float32, shaped
    like x_t.

    For s = CLEAN this is the LCM consistency function c_skip(t) x_t + c_out(t) x0 (LCM, Eq. 9). For
    any s it is the jump along the predicted trajectory with the same boundary impulse at t = s, so
    f(x_t, t -> t) = x_t for every output. With `timestep_scaling` None it is the jump alone, one
    DDIM step (PCM, TCD): samplers other than `LCMScheduler` know no impulse, and the jump is the
    identity at t = s by itself. `t`, `s`: [B] int64 with s <= t.

    Timestep 0 and CLEAN are one time to `LCMScheduler`, whose f leaves x_0 as it is; here the jump
    counts alone between them. x_0 has 3 % noise, and a pair that ends on it would teach that noise
    to all times above. Play never comes to timestep 0.
    """
    jumped = schedule.jump(schedule.predict(output, x_t, t), s)
    if timestep_scaling is not None:
        distance = t.clamp(min=0) - s.clamp(min=0)
        c_skip, c_out = boundary_scalings(distance, timestep_scaling)
        scaled = c_skip * x_t.float() + c_out * jumped
        jumped = torch.where((distance == 0).view(-1, 1, 1, 1), jumped, scaled)
    # where, not a product: at a boundary a "sample" network has no finite eps, and 0 * inf is NaN
    return torch.where((t == s).view(-1, 1, 1, 1), x_t.float(), jumped)
