"""Comparisons: which columns there are, and what is drawn once."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcm.play.compare import Comparisons, columns, grid, wishes
from lcm.play.settings import OF_ALL, read_back
from lcm.play.stage import Loaded
from lcm.play.studio import Studio
from tests.support.adapters import make_recipe
from tests.support.playground import MESSAGE, drawing, make_stage

PROMPT = 'a "red" star\nand \u2603 emoji'


@pytest.fixture(scope="module")
def studio(adapter: Path, style: Path) -> Iterator[Studio]:
    with drawing(Studio(make_stage(adapter, style))) as studio:
        yield studio


def message(studio: Studio, **changes: Any) -> dict[str, Any]:
    lead, ink = studio.stage.adapters
    weights = {lead: 0.9, ink: 0.5}
    return {**MESSAGE, "view": "compare", "prompt": PROMPT, "weights": weights, **changes}


def test_the_columns_are_the_teacher_and_every_adapter_at_its_steps() -> None:
    recipes = {
        "lcm": make_recipe(),
        "ink": None,
        # four fixed steps: of others it makes worse pictures
        "pcm": make_recipe(scheduler="DDIMScheduler", num_inference_steps=[1, 2, 4]),
    }
    adapters = {name: Loaded(name, name, recipe, 1.0) for name, recipe in recipes.items()}
    assert [(column.lead, column.steps) for column in columns(adapters)] == [
        *((None, 40), (None, 4)),
        *(("lcm", n) for n in (1, 2, 4, 8)),
        *(("pcm", n) for n in (1, 2, 4)),
    ]


def test_all_have_the_prompt_the_seed_and_the_styles_and_each_its_guidance(studio: Studio) -> None:
    lead, ink = studio.stage.adapters
    for column, asked in wishes(studio.stage, message(studio, seed=7)):
        own = {} if column.lead is None else {lead: 0.9}
        assert dict(asked.look.weights) == {ink: 0.5, **own}
        request = asked.request
        assert (request.prompt, request.seed) == (PROMPT, 7)
        assert request.guidance_scale == (3.0 if column.lead is None else 1.0)


def test_the_teacher_is_drawn_once_and_a_grid_gives_its_settings_back(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, comparisons = wishes(studio.stage, message(studio)), Comparisons(studio)
    first = [comparisons.draw(*each).result(60) for each in asked]
    drawn: list[Any] = []
    draw = studio.draw
    monkeypatch.setattr(
        studio, "draw", lambda look, *args: drawn.append(look.lead) or draw(look, *args)
    )
    again = [comparisons.draw(*each).result(60) for each in asked]
    assert drawn == [column.lead for column, _ in asked if column.lead is not None]
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(first, again, strict=True))

    content = grid(studio.stage, message(studio), asked, [*first[:-1], None])
    found, (lead, ink) = read_back(content), studio.stage.adapters
    assert found == {
        **{name: message(studio)[name] for name in ("view", *OF_ALL)},
        "weights": {lead: 0.9, ink: 0.5},
        "base": "some/base",
    }
    words = Image.open(io.BytesIO(content)).info["parameters"]
    assert "Steps: 40" in words and "Seed: 0" in words and words.startswith('a "red" star')

    comparisons.forget()  # another adapter of the same name would draw the teacher's with styles
    drawn.clear()
    comparisons.draw(*asked[0]).result(60)
    assert drawn == [None]
