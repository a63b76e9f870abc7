"""The loaded models that terms are built of, and what they take from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lcm.adapter.model_folder import load_model
from lcm.methods.config import MethodConfig
from lcm.methods.terms.build import read_terms
from lcm.methods.terms.term import Parts, Reward
from lcm.models.base_model import vae_folder
from lcm.models.families import Family
from lcm.models.networks import channels_of
from lcm.system.text import plain
from lcm.training.rewards import check_reward, first_line, load_reward


def decodes(method: MethodConfig) -> bool:
    """Whether the loss looks at pictures that the teacher's VAE decodes, with gradients."""
    rewards = "reward" in read_terms(method.terms or ()) and method.reward_vae is None
    return method.loss_type == "lpips" or rewards


@dataclass(frozen=True)
class FromOutside:
    """What --reward and --reward_vae name: loaded before anything that takes its time."""

    reward: Reward | None = None
    tiny_vae: Any = None

    @classmethod
    def load(cls, method: MethodConfig) -> FromOutside:
        """Raises ValueError where one of them is not what the flag says."""
        return cls(
            None if method.reward is None else load_reward(method.reward, method.reward_weights),
            None if method.reward_vae is None else load_tiny_vae(method.reward_vae),
        )


def make_parts(
    method: MethodConfig, family: Family, device: torch.device, outside: FromOutside
) -> Parts:
    """What the terms of a run are built of. Raises ValueError for a reward that cannot be asked
    about a picture, or a tiny VAE for other latents, naming the flag.
    """
    decode: Callable[[Tensor], Tensor] = family.pixels
    if method.reward_vae is not None:
        decode = tiny_decoder(method.reward_vae, family, device, outside.tiny_vae)
    if outside.reward is not None:
        check_reward(outside.reward, str(method.reward), family.native_resolution, device)
    return Parts(channels_of(family.unet), decode, outside.reward, device)


def load_tiny_vae(path: str) -> Any:
    """The `AutoencoderTiny` of a folder or a repository. Raises ValueError where there is none."""
    from diffusers import AutoencoderTiny

    try:
        return load_model(AutoencoderTiny, vae_folder(path))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"reward_vae: {plain(path)} is no AutoencoderTiny ({first_line(error)}); pass one in "
            "safetensors, such as madebyollin/taesd, or leave --reward_vae out"
        ) from error


def tiny_decoder(
    path: str, family: Family, device: torch.device, vae: Any = None
) -> Callable[[Tensor], Tensor]:
    """Clean latents -> pixels by the tiny VAE of `path`, which may be loaded as `vae`, with
    gradients. Raises ValueError where there is none, or one for latents of other channels.
    """
    vae = vae or load_tiny_vae(path)
    mine, theirs = vae.config.latent_channels, family.unet.config.in_channels
    if mine != theirs:
        raise ValueError(
            f"reward_vae: {plain(path)} decodes latents of {mine} channels, the teacher's have "
            f"{theirs}; pass one for {family.name}"
        )
    vae = vae.float().to(device).requires_grad_(False).eval()
    return lambda latents: vae.decode(latents / vae.config.scaling_factor).sample.float()
