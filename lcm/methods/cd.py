"""Consistency distillation as first published (Song et al. 2023, Algorithm 2): Heun's solver, an
EMA target, squared distance.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lcm.methods.lcm import LatentConsistency


class ConsistencyDistillation(LatentConsistency):
    """LCM with the choices of CM. Plays with `LCMScheduler`, which is CM's multistep sampling.

    CM's grid is Karras-spaced and its teachers unguided; here the grid is that of the sampler, and
    guidance is a flag as everywhere (a text-to-image teacher without it is hardly worth copying).
    """

    defaults: ClassVar[dict[str, Any]] = {
        **LatentConsistency.defaults,
        "solver": "heun",
        "target": "ema",
        "loss_type": "l2",
    }


METHOD = ConsistencyDistillation()
