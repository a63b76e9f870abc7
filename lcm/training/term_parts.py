"""The loaded models that terms are built of."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lcm.methods.config import MethodConfig
from lcm.methods.terms.build import read_terms
from lcm.methods.terms.term import Parts, Reward
from lcm.models.families import Family
from lcm.models.networks import channels_of


def decodes(method: MethodConfig) -> bool:
    """Whether the loss looks at pictures that the teacher's VAE decodes, with gradients."""
    rewards = "reward" in read_terms(method.terms or ()) and method.reward_vae is None
    return method.loss_type == "lpips" or rewards


def make_parts(method: MethodConfig, family: Family, device: torch.device) -> Parts:
    """What the terms of a run are built of. Raises ValueError for a reward or a tiny VAE that is
    none, naming the flag.
    """
    decode: Callable[[Tensor], Tensor] = family.pixels
    if method.reward_vae is not None:
        decode = tiny_decoder(method.reward_vae, family, device)
    reward = None if method.reward is None else load_reward(method.reward)
    return Parts(channels_of(family.unet), decode, reward, device)


def tiny_decoder(path: str, family: Family, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Clean latents -> pixels by an `AutoencoderTiny`, with gradients. Raises ValueError where
    there is none, or one for other latents.
    """
    from diffusers import AutoencoderTiny

    try:
        kind = AutoencoderTiny.load_config(path).get("_class_name")
        if kind != "AutoencoderTiny":  # would be loaded as one with random weights
            raise ValueError(f"its config.json is that of {kind}")
        vae: Any = AutoencoderTiny.from_pretrained(path, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"reward_vae: {path} is no AutoencoderTiny ({error})") from error
    if vae.config.latent_channels != family.unet.config.in_channels:
        raise ValueError(
            f"reward_vae: {path} decodes latents of {vae.config.latent_channels} channels, the "
            f"teacher's have {family.unet.config.in_channels}; pass one for {family.name}"
        )
    vae = vae.float().to(device).requires_grad_(False).eval()
    return lambda latents: vae.decode(latents / vae.config.scaling_factor).sample.float()


def load_reward(words: str) -> Reward:
    """The function that "module:function" names. Raises ValueError that says what is missing."""
    module, colon, name = words.partition(":")
    if not (module and colon and name):
        raise ValueError(
            f"reward must be module:function, as in my_rewards:brightness; got {words}"
        )
    try:
        reward = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever it does as it is imported is its own
        raise ValueError(
            f"reward: {words} cannot be imported ({type(error).__name__}: {error}); pass its file "
            "with --plugin, or install its package"
        ) from error
    if not callable(reward):
        raise ValueError(f"reward: {words} is no function")
    return reward
