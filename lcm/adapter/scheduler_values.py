"""What the configuration of a scheduler may say, in a recipe or in a base model's own file: with
nonsense in it a scheduler computes for ever, or makes black pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.system.values import TRUTH, Rule, list_of, number, one_of, optional, whole

BETA = number(1e-9, 0.999_999)
UNCLIPPED = Rule("false, for latents leave the range of pictures", lambda value: value is False)
LONGEST = 100_000
"""Timesteps; Stable Diffusion has 1000."""

NOISE: dict[str, Rule] = {
    "num_train_timesteps": whole(1, LONGEST),
    "beta_start": BETA,
    "beta_end": BETA,
    "trained_betas": optional(list_of(number(0, 1), 1, LONGEST)),
    "steps_offset": whole(0, LONGEST),
    "timestep_spacing": one_of(("leading", "trailing", "linspace")),
}
"""Entries that all schedulers for models with discrete timesteps share."""

VALUES: dict[str, Rule] = {
    **NOISE,
    "beta_schedule": one_of(("linear", "scaled_linear", "squaredcos_cap_v2")),
    "prediction_type": one_of(PREDICTION_TYPES),
    "rescale_betas_zero_snr": TRUTH,
    "original_inference_steps": whole(1, LONGEST),
    "timestep_scaling": number(1e-6, 1e6),
    "set_alpha_to_one": TRUTH,
    "clip_sample": UNCLIPPED,
    "clip_sample_range": number(1e-6, 1e6),
    "thresholding": UNCLIPPED,
    "dynamic_thresholding_ratio": number(0, 1),
    "sample_max_value": number(1e-6, 1e6),
}
"""Entry of the schedulers that recipes name -> what it may be."""


def check_scheduler_values(
    config: Mapping[str, Any], where: str, fix: str, rules: Mapping[str, Rule] = VALUES
) -> None:
    """Raises ValueError naming the first entry that is not what its rule says. Entries without a
    rule are left to whoever knows the class.
    """
    for name in config.keys() & rules.keys():
        rules[name].check(config[name], f"{where}: {name}", fix)
