"""Consistency distillation as first published (Song et al. 2023, Algorithm 2): Heun's solver, an
EMA target, squared distance.

It is LCM with these choices, and `LCMScheduler`, which plays it, is CM's multistep sampling. CM's
grid is Karras-spaced and its teachers unguided; here the grid is that of the sampler, and guidance
is a flag as everywhere (a text-to-image teacher without it is hardly worth copying).
"""

from __future__ import annotations

from dataclasses import replace

from lcm.methods import lcm

METHOD = replace(
    lcm.METHOD,
    settings=lcm.LcmSettings(
        solver="heun", loss_type="l2", weighting="uniform", skipping_steps=1, simulated_play=0.0
    ),
)
