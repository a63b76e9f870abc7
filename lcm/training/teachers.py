"""Several teachers of one architecture: one adapter is trained on all of them, on one of them in
each update.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lcm.adapter.full_unet import architecture
from lcm.adapter.lora import base_state, swapped
from lcm.config.run import TrainConfig
from lcm.models.families import Family, load_family
from lcm.models.single_file import is_single_file
from lcm.models.styles import check_unet_alone, fold_styles, identity_of_styles
from lcm.system.processes import Team

NO_MATTER = ("sample_size", "upcast_attention")
"""Entries of a U-Net's configuration in which teachers may differ."""


def check_alike(first: Family, other: Family, path: str) -> None:
    """Raises ValueError with the reason why one adapter cannot be trained on both."""

    def facts(family: Family) -> dict[str, Any]:
        entries = architecture(family.unet.config).items()
        schedule, vae = family.schedule, family.pipe.vae.config
        return {
            "family": family.name,
            "the U-Net's architecture": {
                name: value for name, value in entries if name not in NO_MATTER
            },
            "prediction_type": schedule.prediction_type,
            "the noise schedule (betas)": schedule.alphas.tolist(),
            "the VAE's scaling_factor or channels": (vae.scaling_factor, vae.latent_channels),
        }

    mine, theirs = facts(first), facts(other)
    for name, value in mine.items():
        if theirs[name] != value:
            shown = f" ({theirs[name]}, not {value})" if isinstance(value, str) else ""
            raise ValueError(
                f"extra_teachers: {path} differs from pretrained_teacher_model in {name}{shown}; "
                "pass models fine-tuned from the same base"
            )


def share_parts(first: Family, other: Family) -> None:
    """`other` gets the VAE of the first, from which all latents are, and its text encoders where
    they have the same weights.
    """
    other.pipe.register_modules(vae=first.pipe.vae)
    for name in ("text_encoder", "text_encoder_2"):
        mine, theirs = getattr(first.pipe, name, None), getattr(other.pipe, name, None)
        if mine is not None and theirs is not None and same_weights(mine, theirs):
            other.pipe.register_modules(**{name: mine})


def same_weights(one: Any, other: Any) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in mine.items()
    )


class Bases:
    """Frozen weights of several teachers for one U-Net, which has those of the first, and may have
    an adapter.
    """

    def __init__(self, unet: Any, others: Sequence[Any]) -> None:
        """`others` are U-Nets of the same architecture, in the same precision, without adapters."""
        named = {
            name: parameter for name, parameter in unet.named_parameters() if ".lora_" not in name
        }
        self.parameters = list(named.values())
        names = [name.replace(".base_layer.", ".") for name in named]
        states = [base_state(other) for other in others]
        self.others: list[list[Tensor]] = [[state[name] for name in names] for state in states]

    def standing(self, teacher: int) -> AbstractContextManager[None]:
        """The weights of this teacher are in the U-Net inside the block, by pointer. A way back
        must end in it, too.
        """
        return swapped(self.parameters, self.others[teacher - 1]) if teacher else nullcontext()


DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def identify_styles(config: TrainConfig, team: Team) -> list[list[Any]]:
    """Content and weights of --teacher_lora. Raises ValueError, on all processes, where theirs
    differ.
    """
    identity = team.together(lambda: identity_of_styles(config.styles))
    team.check_same(str(identity), "files or weights of teacher_lora", "--teacher_lora")
    return identity


def load_teacher(config: TrainConfig) -> Family:
    """As the flags say. Raises FileNotFoundError or ValueError naming what is wrong with it."""
    path = str(config.pretrained_teacher_model)
    family = load_family(
        path,
        # among several teachers, of those in one file
        base_config=config.base_config
        if is_single_file(path) or not config.extra_teachers
        else None,
        dtype=DTYPES[config.mixed_precision],
        revision=config.teacher_revision,
        variant=config.variant,
        vae_path=config.pretrained_vae_model_name_or_path,
    )
    if config.full_finetune:
        check_unet_alone(config.styles)
    fold_styles(family.pipe, config.styles)
    if config.loss_type == "lpips":
        family.pipe.vae.float()  # gradients pass through it: they would underflow in half precision
    return family


def load_teachers(config: TrainConfig) -> list[Family]:
    """The teacher and the extra ones, which share its VAE. Raises ValueError for one that is of
    another kind.
    """
    first = load_teacher(config)
    return [first, *(load_extra(config, path, first) for path in config.extra_teachers)]


def load_extra(config: TrainConfig, path: str, first: Family) -> Family:
    """Revision, variant and VAE are flags for the first alone."""
    own = dataclasses.replace(
        config, pretrained_teacher_model=path, teacher_revision=None, variant=None
    )
    try:
        family = load_teacher(dataclasses.replace(own, pretrained_vae_model_name_or_path=None))
    except (ValueError, OSError) as error:
        raise type(error)(
            str(error).replace("pretrained_teacher_model", "extra_teachers")
        ) from error
    check_alike(first, family, path)
    share_parts(first, family)
    return family


def caution(family: Family, config: TrainConfig) -> str | None:
    """What is known to go wrong with these flags and this teacher, though it is allowed; and what
    helps.
    """
    if config.target == "online" and family.zero_terminal_snr:
        return (
            "this teacher has zero terminal SNR, where a student that is its own target at once "
            "(--target online) was seen to get worse with every inference step; --target ema holds "
            "(docs/methods.md)"
        )
    return None


def unneeded(family: Family, config: TrainConfig) -> list[nn.Module]:
    """What no step asks for: with a cache the text encoders, with a cache or trajectories the
    VAE.
    """
    encodes = not config.cache_latents
    text = [] if encodes else family.text_encoders()
    vae_is_asked = config.loss_type == "lpips" or (encodes and config.prompts_file is None)
    return text if vae_is_asked else [family.pipe.vae, *text]


def park(families: Sequence[Family], config: TrainConfig) -> None:
    """Moves what no step asks for into main memory."""
    for family in families:
        family.park(unneeded(family, config))
