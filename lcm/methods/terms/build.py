"""From the words of `--terms` to the terms of a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lcm.diffusion.schedule import NoiseSchedule
from lcm.methods.settings import Settings
from lcm.methods.terms import TERMS
from lcm.methods.terms.term import Parts, Term
from lcm.system.registry import lookup

if TYPE_CHECKING:
    from lcm.methods.method import Method

REASONS = {
    "pair": "compares the landing point with its target, picture with picture",
    "point": "tells the landing point from that of its target",
    "clean": "needs a landing point that is a picture",
}
"""What a term may need of a method."""
INSTEAD = {
    "pair": "use lcm, cd, ct, endpoint, reflow or rollout",
    "point": "pass --adversarial_real images",
    "clean": "use a method that lands clean, such as lcm",
}
"""What to do where a method does not have that."""


def read_terms(words: Sequence[str]) -> dict[str, float]:
    """Name -> weight of words like "adversarial=0.1", or "adversarial" for the term's own weight.

    Raises ValueError for an unknown term, one that is named twice, and a weight that is none.
    """
    weights: dict[str, float] = {}
    for word in words:
        name, equals, text = word.partition("=")
        kind = lookup(TERMS, name, "terms")
        if name in weights:
            raise ValueError(f"terms names {name} twice; leave one of them out")
        try:
            weight = float(text) if equals else kind.weight
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise ValueError(
                f"terms: the weight of {name} must be a positive number, as in "
                f"{name}={kind.weight:g}; got {text!r}"
            )
        weights[name] = weight
    return weights


def spelled(words: Sequence[str]) -> list[str]:
    """The same terms, each with its weight. Raises ValueError as `read_terms` does."""
    return [f"{name}={weight}" for name, weight in read_terms(words).items()]


def check_terms(
    words: Sequence[str], objective: str, method: Method[Any], settings: Settings
) -> None:
    """Raises ValueError where the method cannot give a term what it needs, with the reason."""
    if method.compares == "nothing" and not words:
        raise ValueError(f"objective {objective} has no loss but its terms; pass --terms dmd")
    for name in read_terms(words):
        need = TERMS[name].needs(settings)
        has = {
            "": True,
            "pair": method.lands_clean and method.compares == "points",
            "point": method.compares == "points",
            "clean": method.lands_clean,
        }
        if settings.loss_type == "energy":
            raise ValueError(
                f"terms: {name} is for one landing point, and loss_type energy compares two random "
                "ones; use another --objective"
            )
        if name == "reward" and settings.reward is None:
            raise ValueError(
                "terms: reward needs one; pass --reward clip, pick_score, hpsv2 or module:function"
            )
        from_noise = name == "dmd" and settings.dmd_of == "noise"
        if from_noise and 1 not in method.play(settings).num_inference_steps:
            raise ValueError(
                f"terms: dmd with dmd_of noise trains a single step from noise to picture, and "
                f"objective {objective} as it is set is not played in one; {INSTEAD['clean']}"
            )
        if not has[need]:
            raise ValueError(
                f"terms: {name} {REASONS[need]}, which objective {objective} does not have; "
                f"{INSTEAD[need]}"
            )


def build_terms(
    words: Sequence[str], settings: Settings, schedule: NoiseSchedule, parts: Parts
) -> tuple[Term, ...]:
    """The terms in the order in which they were named."""
    return tuple(
        TERMS[name].build(settings, schedule, weight, parts)
        for name, weight in read_terms(words).items()
    )
