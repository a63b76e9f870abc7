"""The words in which cards and pages differ between an adapter and a whole U-Net."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from lcm.adapter.recipe import Recipe
from lcm.config.sections import AdapterConfig


@dataclass(frozen=True)
class Wording:
    """One kind of result. Words in braces are filled in by whoever uses the text."""

    is_adapter: bool
    """Whether it is added to the base model: styles then have to be loaded beside it, and
    `lcm.attach` sets more than the code for diffusers does."""
    title: str
    noun: str
    hub_relation: str
    """What the hub calls its relation to the base model."""
    hub_tags: tuple[str, ...]
    purpose: str
    trained: str
    fits: str
    """The end of the sentence on the U-Nets that it fits."""
    styles: str
    """What the style LoRAs of the teacher mean for the use of it."""
    attach: str
    """What `lcm.attach` does in the place of the code for diffusers."""


ADAPTER = Wording(
    is_adapter=True,
    title="LoRA",
    noun="adapter",
    hub_relation="adapter",
    hub_tags=("lora",),
    purpose="An adapter that lets {teacher} and models fine-tuned from it",
    trained="LoRA, rank {rank}, alpha {alpha:g}",
    fits="others than the teacher's own were not tried.",
    styles="Load this adapter beside them, with these weights: so it was trained",
    attach="loads the adapter and sets the scheduler, in the place of all lines after that with "
    "`pipe =` and before that with `image =`",
)

WHOLE_UNET = Wording(
    is_adapter=False,
    title="U-Net",
    noun="U-Net",
    hub_relation="finetune",
    hub_tags=(),
    purpose="A U-Net that lets {teacher}",
    trained="the whole U-Net",
    fits="it replaces one and cannot be scaled.",
    styles="They are part of this U-Net",
    attach="puts U-Net and scheduler into the teacher's own pipeline",
)


def wording(adapter: AdapterConfig) -> Wording:
    """The wording for what this configuration trains."""
    return WHOLE_UNET if adapter.full_finetune else ADAPTER


def title(recipe: Recipe, words: Wording) -> str:
    """The heading of card and page, such as "LCM-LoRA of sd15"."""
    teacher = PurePath(recipe.public().teacher).name
    return f"{recipe.objective.upper()}-{words.title} of {teacher}"
