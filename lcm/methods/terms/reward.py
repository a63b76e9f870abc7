"""Reward feedback on decoded landing points (RG-LCD, Li et al. 2024; Hyper-SD, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lcm.diffusion.schedule import NoiseSchedule
from lcm.methods.context import Draws, Landed, Numbers
from lcm.methods.settings import Settings
from lcm.methods.terms.term import NoGradientError, Parts, Reward, TermKind, at_once

NETWORKS = ("clip", "pick_score", "hpsv2")
"""Rewards that have a name, by that of their network."""


@dataclass(frozen=True)
class Rewarded:
    """-r(picture, prompt) of a `share` of the samples, drawn by chance and weighted by its inverse,
    so that the mean is that over all. Pictures are decoded one by one.

    Raises ValueError for what is no reward.
    """

    weight: float
    share: float
    decode: Callable[[Tensor], Tensor]
    reward: Reward
    name: str = "reward"
    start: float = 0.0
    numbers: Numbers = Numbers(0, 1)
    critic: None = None

    def __call__(self, landed: Landed, draws: Draws) -> Tensor:
        chosen = draws.chosen(self.share)
        prompts = landed.context.batch.prompts
        nothing = torch.zeros(1, device=landed.point.device)
        parts = zip(landed.point.split(1), prompts, chosen, strict=True)
        try:
            values = [
                at_once(point, partial(self.of, prompt)) if is_chosen else nothing
                for point, prompt, is_chosen in parts
            ]
        except NoGradientError as error:
            raise ValueError(
                "reward: what the function returns has no gradient to the pictures; compute it "
                "with torch alone, without detach() and no_grad()"
            ) from error
        return torch.cat(values)

    def of(self, prompt: str, latents: Tensor) -> Tensor:
        """-r / share of one sample, [1]. Raises ValueError where the reward is no number for each
        picture.
        """
        pictures = (self.decode(latents) / 2 + 0.5).clamp(0.0, 1.0)
        found = self.reward(pictures, [prompt])
        if not isinstance(found, Tensor) or found.shape != (1,):
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                "reward: the function must return one number for each picture, a tensor [n]; got "
                f"{shape} for one"
            )
        return -found / self.share


def no_reward(pictures: Tensor, prompts: object) -> Tensor:
    """Stands for the one that is not loaded yet."""
    return pictures.mean((1, 2, 3))


def build(settings: Settings, schedule: NoiseSchedule, weight: float, parts: Parts) -> Rewarded:
    """The reward that the run has loaded."""
    decode = parts.decode or (lambda latents: latents[:, :3])
    return Rewarded(weight, settings.reward_share, decode, parts.reward or no_reward)


TERM = TermKind(
    build,
    weight=0.01,
    flags=("reward", "reward_weights", "reward_share", "reward_vae"),
    needs=lambda settings: "clean",
)
