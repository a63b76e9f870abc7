"""The measures and tables of guidance: the laws they obey, not the numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.guidance import ADAPTERS, TEACHER, cells
from benchmarks.guidance_measures import (
    NUM_CAPTIONS,
    OPEN,
    SEEDS,
    negative_prompts,
    open_prompts,
    prompts_and_seeds,
    variance_within_prompts,
)
from benchmarks.guidance_tables import NOT_YET, TABLES
from examples.shapes.render import BACKGROUNDS, CAPTIONS, COLORS, SHAPES


@pytest.mark.parametrize("color", COLORS)
def test_a_negative_prompt_forbids_the_color_and_nothing_that_is_asked_for(color: str) -> None:
    asked, forbidden = open_prompts(), negative_prompts(color)
    assert len(asked) == len(forbidden) == len(SHAPES) * len(BACKGROUNDS) * SEEDS
    for (shape, background), prompt, negative in zip(OPEN, asked, forbidden, strict=True):
        assert negative in CAPTIONS and color in negative.split()
        assert {shape, background} <= set(prompt.split())
        assert not {shape, background} & set(negative.split())
        assert not set(COLORS) & set(prompt.split())


def test_every_attribute_is_among_the_captions_and_every_picture_has_its_seed() -> None:
    prompts, seeds = prompts_and_seeds()
    assert len(set(prompts)) == NUM_CAPTIONS and len(set(seeds)) == len(seeds) == len(prompts)
    assert set(prompts) <= set(CAPTIONS)
    words = {word for prompt in prompts for word in prompt.split()}
    assert words >= {*SHAPES, *COLORS, *BACKGROUNDS}


def test_variance_is_of_the_pictures_of_one_prompt() -> None:
    own = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert variance_within_prompts(own.repeat(4, 1, 1, 1), 3) == 0
    pair = torch.tensor([[1.0, 0.0], [5.0, 5.0], [3.0, 0.0], [5.0, 9.0]])
    # 2 of the first prompt, 8 of the second
    assert variance_within_prompts(pair, 2) == 5.0


def test_a_teacher_is_measured_before_what_is_compared_with_it() -> None:
    rows = list(cells())
    assert len({cell.key for cell in rows}) == len(rows)
    for i, cell in enumerate(rows):
        assert cell.who in (TEACHER, *ADAPTERS)
        asked = (cell.teacher, cell.kind, TEACHER)
        before = [r for r in rows[:i] if (r.teacher, r.kind, r.who) == asked]
        assert before or cell.who == TEACHER


def made_up() -> dict[str, Any]:
    """Results in which a teacher is 0.5 right and everybody else all."""
    draw = {"all_right": 1.0, "variance": 2.0, "mean": [0.5] * 4, "std": [1.0] * 4}
    forbids = {"forbidden": "white", "without": 0.5, "with": 0.25}
    forbids |= {"kept_without": 1.0, "kept_with": 0.75}
    rows = {}
    for cell in cells():
        row = {**vars(cell), **(draw if cell.kind == "draw" else forbids)}
        if cell.kind == "draw" and cell.who == TEACHER:
            row |= {"all_right": 0.5, "variance": 4.0, "mean": [0.0] * 4}
        rows[cell.key] = row
    return rows


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("accuracy", "| v | plain | 4 | 100%"),
        ("diversity", "| v | preserve_cfg | 8 | 0.50"),
        ("color", "| v | plain | 8 | 0.50, 1.00"),
        ("negative", "| epsilon | plain | 4 | 1.5 | white | 50% | 25% | 100% | 75% |"),
        ("first", "| v | plain | 4 | 1 | 100.0% | 100.0% | 0.50 | 0.50 |"),
    ],
)
def test_tables_say_what_was_measured_or_that_nothing_was(name: str, shown: str) -> None:
    assert shown in TABLES[name](made_up())
    assert TABLES[name]({}) == NOT_YET
