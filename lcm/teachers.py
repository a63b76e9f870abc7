"""Several teachers of one architecture: one adapter is trained on all of them, on one of them in each update."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lcm.adapters import base_state, swapped
from lcm.data.batches import Sample, SampleRef, StepSampler, TrainDataset, sample_rng
from lcm.families import Family
from lcm.full import architecture

NO_MATTER = ("sample_size", "upcast_attention")
"""Entries of a U-Net's configuration in which teachers may differ."""


def teacher_of(seed: int, step: int, count: int) -> int:
    """Which of `count` teachers an update is made on: every one once in `count` updates, in an order of their own."""
    turn, place = divmod(step, count)
    return int(sample_rng(seed, turn, "teachers").permutation(count)[place])


def check_alike(first: Family, other: Family, path: str) -> None:
    """Raises ValueError with the reason why one adapter cannot be trained on both."""

    def facts(family: Family) -> dict[str, Any]:
        entries = architecture(family.unet.config).items()
        schedule, vae = family.schedule, family.pipe.vae.config
        return {
            "family": family.name,
            "the U-Net's architecture": {name: value for name, value in entries if name not in NO_MATTER},
            "prediction_type": schedule.prediction_type,
            "the noise schedule (betas)": schedule.alphas.tolist(),
            "the VAE's scaling_factor or channels": (vae.scaling_factor, vae.latent_channels),
        }

    mine, theirs = facts(first), facts(other)
    for name, value in mine.items():
        if theirs[name] != value:
            shown = f" ({theirs[name]}, not {value})" if isinstance(value, str) else ""
            raise ValueError(
                f"extra_teachers: {path} differs from pretrained_teacher_model in {name}{shown}; pass models fine-tuned from the "
                "same base"
            )


def share_parts(first: Family, other: Family) -> None:
    """`other` gets the VAE of the first, from which all latents are, and its text encoders where they have the same weights."""
    other.pipe.register_modules(vae=first.pipe.vae)
    for name in ("text_encoder", "text_encoder_2"):
        mine, theirs = getattr(first.pipe, name, None), getattr(other.pipe, name, None)
        if mine is not None and theirs is not None and same_weights(mine, theirs):
            other.pipe.register_modules(**{name: mine})


def same_weights(one: Any, other: Any) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in mine.items())


class Bases:
    """Frozen weights of several teachers for one U-Net, which has those of the first, and may have an adapter."""

    def __init__(self, unet: Any, others: Sequence[Any]) -> None:
        """`others` are U-Nets of the same architecture, in the same precision, without adapters."""
        named = {name: parameter for name, parameter in unet.named_parameters() if ".lora_" not in name}
        self.parameters = list(named.values())
        names = [name.replace(".base_layer.", ".") for name in named]
        states = [base_state(other) for other in others]
        self.others: list[list[Tensor]] = [[state[name] for name in names] for state in states]

    def standing(self, teacher: int) -> AbstractContextManager[None]:
        """The weights of this teacher are in the U-Net inside the block, by pointer. A way back must end in it, too."""
        return swapped(self.parameters, self.others[teacher - 1]) if teacher else nullcontext()


class MixedDataset(Dataset[Sample]):
    """The samples as each teacher needs them, whose prompts and trajectories are its own. Indexed by (teacher, ref)."""

    def __init__(self, datasets: Sequence[TrainDataset]) -> None:
        self.datasets = datasets

    def __getitem__(self, ref: tuple[int, SampleRef]) -> Sample:
        teacher, of_record = ref
        return dataclasses.replace(self.datasets[teacher][of_record], teacher=teacher)


class MixedSampler:
    """The batches of a StepSampler, each with the teacher of its update, of `count`."""

    def __init__(self, sampler: StepSampler, count: int) -> None:
        self.sampler, self.count = sampler, count

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[int, SampleRef]]]:
        first, accumulation = self.sampler.steps.start, self.sampler.accumulation
        for number, refs in enumerate(self.sampler):
            teacher = teacher_of(self.sampler.seed, first + number // accumulation, self.count)
            yield [(teacher, ref) for ref in refs]
