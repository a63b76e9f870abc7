"""The sections of what a run writes, draws and uploads, with limits beside the fields."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lcm.adapter.names import SUFFIX, WEIGHTS_NAME, file_stem
from lcm.system.flags import Section, flag
from lcm.system.words import LARGEST_SEED, quoted

NEVER = 10**12
"""Updates between two of something, more than any run has."""
NOTHING = "none"
"""--validation_prompts of a run that draws no picture."""
MEASURED_PROMPTS = 32
"""Captions that --evaluate_steps measures: eight times those of a grid, and as many as tell the
teacher's own steps apart."""
TRACKERS = ("tensorboard", "wandb", "trackio")
"""Packages that --report_to may name."""


@dataclass(frozen=True)
class ValidationConfig(Section):
    """The grids of pictures that a run draws."""

    validation_prompts: list[str] = flag(
        [],
        "prompts of the validation grid; none: no picture is drawn at all",
        may_be_empty=True,
        may_be_blank=True,
        unset="four captions of the data",
        is_free=True,
    )
    validation_steps: int = flag(
        500,
        "updates between validation grids; the first is drawn before training",
        above=0,
        at_most=NEVER,
        is_free=True,
    )
    validation_num_steps: list[int] = flag(
        [1, 2, 4, 8],
        "inference steps of the grid's columns",
        at_least=1,
        at_most=1000,
        is_free=True,
    )
    validation_seed: int = flag(
        0, "seed of every validation picture", at_least=0, at_most=LARGEST_SEED, is_free=True
    )

    validation_num_images: int = flag(
        4,
        "seeds of every prompt that are drawn and measured against the teacher's pictures; the "
        "first is shown",
        at_least=1,
        at_most=16,
        is_free=True,
    )
    validation_teacher_steps: int = flag(
        40,
        "steps of the teacher's own pictures, drawn once, beside which the student's are shown and "
        "measured; 0: none are",
        at_least=0,
        at_most=1000,
        is_free=True,
    )

    evaluate_steps: int = flag(
        0,
        f"updates between measurements over {MEASURED_PROMPTS} captions of the data, which take "
        "the place of those of the grids; 0: the prompts of the grids are measured",
        at_least=0,
        at_most=NEVER,
        is_free=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.evaluate_steps:
            return
        if not self.draws:
            raise ValueError(
                "evaluate_steps draws pictures to measure, and validation_prompts none asks for no "
                "picture at all; leave one of the two out"
            )
        if not self.validation_teacher_steps:
            raise ValueError(
                "evaluate_steps measures against the teacher's pictures, and "
                "validation_teacher_steps 0 draws none; leave one of the two out"
            )

    @property
    def measured_images(self) -> int:
        """The pictures that are drawn of a prompt in a number of steps to be measured: one where
        nothing is.
        """
        return self.validation_num_images if self.validation_teacher_steps else 1

    @property
    def num_images(self) -> int:
        """The pictures that are drawn of a grid's prompt in a number of steps: one where the grids
        are not what is measured.
        """
        return 1 if self.evaluate_steps else self.measured_images

    @property
    def draws(self) -> bool:
        """Whether any picture is drawn, on the way or of the result."""
        return self.validation_prompts != [NOTHING]

    @property
    def own_prompts(self) -> list[str]:
        """The prompts that were given; none where captions stand in for them."""
        return self.validation_prompts if self.draws else []


def plain_name(name: str) -> str:
    """A project's name, which becomes a folder and a part of an address. Raises ValueError."""
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
        raise ValueError(
            "tracker_project_name may have letters, digits, dots, dashes and underscores; got "
            f"{name!r}"
        )
    return name


def known_trackers(names: list[str]) -> list[str]:
    """The packages of --report_to, none for "none" alone. Raises ValueError for others."""
    if names == ["none"]:
        return []
    if "all" in names:  # which ones are installed, and upload, should not decide what a run does
        raise ValueError(
            f"report_to: all is not offered; name those you want, of {', '.join(TRACKERS)}"
        )
    if unknown := [name for name in names if name not in TRACKERS]:
        raise ValueError(
            f"report_to must be some of {', '.join(TRACKERS)}, or none alone; got {unknown[0]!r}"
        )
    return names


def plain_file_name(name: str | None) -> str | None:
    """The name of the adapter's file, without its suffix. Raises ValueError."""
    try:
        return None if name is None else file_stem(name)
    except ValueError as error:
        raise ValueError(f"output_name: {error}") from error


@dataclass(frozen=True)
class OutputConfig(Section):
    """What is written, where and how often."""

    output_dir: str = flag("lcm-lora", "where everything is written", is_free=True, is_place=True)
    output_name: str | None = flag(
        None,
        "name of the adapter's file in output_dir, as programs show it",
        unset="pytorch_lora_weights, which diffusers looks for",
        read=plain_file_name,
    )
    checkpointing_steps: int = flag(
        500, "updates between checkpoints", above=0, at_most=NEVER, is_free=True
    )
    checkpoints_total_limit: int | None = flag(
        None,
        "keep only the newest so many checkpoints",
        above=0,
        at_most=1_000_000,
        unset="keep all",
        is_free=True,
    )
    resume_from_checkpoint: str = flag(
        "latest",
        "latest: go on from the newest checkpoint in output_dir, start afresh where there is none; "
        "or a folder",
        is_free=True,
        is_place=True,
    )
    logging_steps: int = flag(
        10, "updates between lines in metrics.jsonl", above=0, at_most=NEVER, is_free=True
    )
    report_to: list[str] = flag(
        [],
        f"also log to some of {', '.join(TRACKERS)}; none: to nothing",
        may_be_empty=True,
        unset="none",
        read=known_trackers,
        is_free=True,
    )
    tracker_project_name: str = flag(
        "lcm", "project that the trackers file the run under", read=plain_name, is_free=True
    )
    logging_dir: str = flag(
        "logs",
        "folder of the trackers' files inside output_dir",
        is_free=True,
        is_place=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        folder, inside = Path(os.path.abspath(self.output_dir)), self.logging_dir  # noqa: PTH100
        # by their names alone: a link inside output_dir is its owner's own
        if not Path(os.path.abspath(folder / inside)).is_relative_to(folder):  # noqa: PTH100
            raise ValueError(
                f"logging_dir is a folder inside output_dir, and {quoted(inside)} leads out of it; "
                "pass a name such as logs"
            )

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.output_dir)

    @property
    def weights_file(self) -> str:
        """The adapter's file in the output folder."""
        return WEIGHTS_NAME if self.output_name is None else f"{self.output_name}{SUFFIX}"


@dataclass(frozen=True)
class HubConfig(Section):
    """What the hub gets, and is told."""

    license: str | None = flag(
        None,
        "licence that the card gives, as the hub spells it (openrail++)",
        unset="the card gives none",
        is_free=True,
    )
    push_to_hub: bool = flag(
        False,
        "upload weights and card at the end; whether that is allowed is asked at the start",
        is_free=True,
    )
    hub_model_id: str | None = flag(
        None,
        "with push_to_hub: someone/name",
        unset="the name of output_dir among your own",
        is_free=True,
    )
    hub_private: bool = flag(False, "with push_to_hub: make the repository private", is_free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.push_to_hub and (self.hub_model_id is not None or self.hub_private):
            raise ValueError(
                "hub_model_id and hub_private have no effect without --push_to_hub; pass it too"
            )
