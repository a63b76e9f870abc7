"""Several teachers of one architecture: one adapter is trained on all of them, on one of them in
each update.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lcm.adapter.full_unet import architecture
from lcm.adapter.lora import adaptable, base_state, swapped
from lcm.config.sections import TeacherConfig
from lcm.models.families import Family, load_family
from lcm.models.noise import Noise
from lcm.models.single_file import is_single_file
from lcm.models.styles import Style, fold_styles, identity_of_styles
from lcm.system.processes import Team

MAY_DIFFER = ("sample_size", "upcast_attention")
"""Entries of a U-Net's configuration in which teachers may differ."""


def check_alike(first: Family, other: Family, path: str) -> None:
    """Raises ValueError with the reason why one adapter cannot be trained on both."""

    def facts(family: Family) -> dict[str, Any]:
        entries = architecture(family.unet.config).items()
        schedule, vae = family.schedule, family.pipe.vae.config
        return {
            "family": family.name,
            "the U-Net's architecture": {
                name: value for name, value in entries if name not in MAY_DIFFER
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
    mine, theirs = adaptable(first.pipe), adaptable(other.pipe)
    for name in (mine.keys() & theirs.keys()) - {"unet"}:
        if same_weights(mine[name], theirs[name]):
            other.pipe.register_modules(**{name: mine[name]})


def same_weights(one: Any, other: Any) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in mine.items()
    )


class FrozenWeights:
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

    def active(self, teacher: int) -> AbstractContextManager[None]:
        """The weights of this teacher are in the U-Net inside the block, by pointer. A way back
        must end in it, too.
        """
        return swapped(self.parameters, self.others[teacher - 1]) if teacher else nullcontext()


def styles_of(config: TeacherConfig) -> list[Style]:
    """The style LoRAs of --teacher_lora. Raises ValueError for a weight that is none."""
    return [Style.parse(text) for text in config.teacher_lora]


def identify_styles(config: TeacherConfig, team: Team) -> list[list[Any]]:
    """Content and weight of every style. Raises ValueError, on all processes, where theirs
    differ.
    """
    identity = team.together(lambda: identity_of_styles(styles_of(config)))
    team.check_same(str(identity), "files or weights of teacher_lora", "--teacher_lora")
    return identity


def load_teachers(config: TeacherConfig, dtype: torch.dtype) -> list[Family]:
    """The teacher, with its styles, and the extra ones, which share its VAE.

    Raises FileNotFoundError or ValueError naming what is wrong, ValueError for an extra one that is
    of another kind.
    """
    first = load_family(
        config.path,
        # among several teachers, of those in one file
        base_config=None
        if config.extra_teachers and not is_single_file(config.path)
        else config.base_config,
        dtype=dtype,
        revision=config.teacher_revision,
        variant=config.variant,
        vae_path=config.pretrained_vae_model_name_or_path,
        **of_all(config),
    )
    fold_styles(first.pipe, styles_of(config))
    return [first, *(load_extra(config, path, first) for path in config.extra_teachers)]


def of_all(config: TeacherConfig) -> dict[str, Any]:
    """The options of `load_family` that are flags for every teacher."""
    noise = Noise(config.prediction_type, config.zero_terminal_snr)
    return {"noise": noise, "clip_skip": config.clip_skip}


def load_extra(config: TeacherConfig, path: str, first: Family) -> Family:
    """A further teacher. Revision, variant and VAE are flags for the first alone."""
    base_config = config.base_config if is_single_file(path) else None
    try:
        family = load_family(
            path, base_config=base_config, dtype=first.unet.dtype, **of_all(config)
        )
        fold_styles(family.pipe, styles_of(config))
    except (ValueError, OSError) as error:
        raise type(error)(
            str(error).replace("pretrained_teacher_model", "extra_teachers")
        ) from error
    check_alike(first, family, path)
    share_parts(first, family)
    return family


def caution(family: Family, target: str | None) -> str | None:
    """What is known to go wrong with this target network and this teacher, though it is allowed;
    and what helps.
    """
    if target == "online" and family.zero_terminal_snr:
        return (
            "this teacher has zero terminal SNR, where a student that is its own target at once "
            "(--target online) was seen to get worse with every inference step; --target ema holds "
            "(docs/methods.md)"
        )
    return None
