"""The whole recipe of Hyper-SD (Ren et al. 2024) in one run and one file: segments merged 8 -> 4 ->
2 -> 1 beside an adversarial term, then score distillation of the step from pure noise.

Hyper-SD trains its one-step adapter on its own at last; here the segments stay beside it, so that
more steps are still better ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lcm.methods import tscd


@dataclass(frozen=True)
class HyperSettings(tscd.TscdSettings):
    """Those of `tscd`, and the terms that are added to it."""

    terms: tuple[str, ...] = ("adversarial=0.1", "dmd=1.0")
    critic_updates: int = 2
    dmd_start: float = 0.5

    @property
    def follows_progress(self) -> bool:
        """Segments are merged, and a term begins."""
        return True


METHOD = replace(tscd.METHOD, settings=HyperSettings())
