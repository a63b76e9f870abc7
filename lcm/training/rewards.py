"""What --reward names: a network that people's choices trained, or a function of a user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lcm.evaluation.features import NETS
from lcm.methods.terms.reward import NETWORKS, Rewarded
from lcm.methods.terms.term import Reward
from lcm.system.registry import closest
from lcm.system.text import plain

if TYPE_CHECKING:
    from lcm.evaluation.nets.clip import TextAndImage


@dataclass(frozen=True)
class Preference:
    """The cosine of pictures and their prompts times the network's own factor, 100 in those that
    there are: what their training took for how much a picture is liked. PickScore is that number.
    """

    net: TextAndImage

    def __call__(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """[n] of pictures [n, 3, H, W] float32 in [0, 1], with gradients to them."""
        net = self.net.to(pictures.device)
        with torch.no_grad():
            words = net.texts(prompts)
        return net.scale * (net.pixels(pictures) * words).sum(dim=1)


def load_reward(words: str, weights: str | None = None) -> Reward:
    """The network of that name, from the folder `weights` or the cache of the hub, or the function
    that "module:function" names. Raises ValueError that says what is missing.
    """
    if words in NETWORKS:
        folder = None if weights is None else Path(weights).expanduser()
        if folder is not None and not folder.is_dir():
            raise ValueError(
                f"reward_weights: {plain(folder)} is no folder; pass the one that the weights of "
                f"{words} are in"
            )
        try:
            return Preference(NETS[words].found(folder, torch.device("cpu")))
        except (ValueError, OSError) as error:
            raise ValueError(f"reward {words}: {error}") from error
    return imported(words)


def imported(words: str) -> Reward:
    """The function that "module:function" names. Raises ValueError that says what is missing."""
    module, _, name = words.partition(":")
    if not (module and name):
        raise ValueError(
            f"reward must be one of {', '.join(NETWORKS)}, or module:function, as in "
            f"my_rewards:brightness; got {plain(words)}.{closest(words, NETWORKS)}"
        )
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # whatever it does as it is imported is its own
        raise ValueError(
            f"reward: {plain(words)} cannot be imported ({type(error).__name__}: "
            f"{first_line(error)}); pass its file with --plugin, or install its package"
        ) from error
    if not callable(found):
        raise ValueError(f"reward: {plain(words)} is no function; name one that takes pictures")
    return found


def check_reward(reward: Reward, words: str, side: int, device: torch.device) -> None:
    """Asks it about one grey picture. Raises ValueError where that fails or is no reward."""
    picture = torch.zeros(1, 3, side, side, device=device, requires_grad=True)
    slope = None
    try:
        value = Rewarded(1.0, 1.0, lambda latents: latents, reward).of("a picture", picture)
        if value.requires_grad:
            (slope,) = torch.autograd.grad(value.sum(), picture, allow_unused=True)
    except Exception as error:  # whatever it does is its own
        if isinstance(error, ValueError) and str(error).startswith("reward:"):
            raise
        raise ValueError(
            f"reward: {plain(words)} failed on a picture [1, 3, {side}, {side}] "
            f"({type(error).__name__}: {first_line(error)}); mend it"
        ) from error
    if slope is None:
        raise ValueError(
            "reward: what the function returns has no gradient to the pictures; compute it with "
            "torch alone, without detach() and no_grad()"
        )


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return plain(lines[0]) if lines else type(error).__name__
