"""What a page may ask for: each field is looked at, and what nothing answers to is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcm.play.messages import RULES, facts, wish
from lcm.play.stage import Stage
from tests.support.playground import MESSAGE, make_stage


@pytest.fixture(scope="module")
def stage(adapter: Path, guided: Path, style: Path) -> Stage:
    return make_stage(adapter, guided, style)


def lead_of(stage: Stage, number: int) -> dict[str, Any]:
    name = list(stage.adapters)[number]
    return {"lead": name, "weights": {name: 1.0}}


@pytest.mark.parametrize(
    ("lead", "scale"), [(None, 4.5), (0, 1.0), (1, 4.5)], ids=["teacher", "inside", "left to us"]
)
def test_guidance_goes_where_something_answers_to_it(
    stage: Stage, lead: int | None, scale: float
) -> None:
    chosen = {"lead": None, "weights": {}} if lead is None else lead_of(stage, lead)
    asked = wish(stage, {**MESSAGE, **chosen, "guidance": 4.5, "negative": "blue"}).request
    assert asked.guidance_scale == scale
    assert asked.negative_prompt == ("blue" if scale > 1 else None)
    assert (asked.height, asked.width) == (16, 16)


def test_the_page_is_told_which_sliders_there_are(stage: Stage) -> None:
    first, second, third = facts(stage)["adapters"]
    assert [one["few"] for one in (first, second, third)] == [True, True, False]
    assert (first["answers"], second["answers"]) == (False, True)
    assert (first["steps"], first["most"]) == (4, 8)  # of `Recipe.num_inference_steps`
    assert facts(stage)["teacher"]["guidance"] == 7.5  # which the first was trained with


def test_another_adapter_with_a_scheduler_of_its_own_is_not_mixed_in(stage: Stage) -> None:
    first, second, ink = stage.adapters
    weights = {first: 1.0, second: 1.0, ink: -0.5}
    look = wish(stage, {**MESSAGE, "lead": first, "weights": weights}).look
    assert dict(look.weights) == {first: 1.0, ink: -0.5}


NO_NUMBERS: tuple[Any, ...] = (None, "4", True, -1, 10**30, [], {})


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_the_page_does_not_send_is_refused_by_its_name(
    name: str, value: Any, stage: Stage
) -> None:
    if RULES[name].holds(value) or name == "strength":
        return
    with pytest.raises(ValueError, match=name if name != "lead" else "lead|adapter"):
        wish(stage, {**MESSAGE, name: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": {"nobody": 1.0}},
        {"weights": {"nobody": float("nan")}},
        {"weights": []},
        {"lead": "nobody", "weights": {"nobody": 1.0}},
        {"weights": {"x" * 10_000: 1.0}},
    ],
)
def test_adapters_that_are_not_here_are_refused(changes: dict[str, Any], stage: Stage) -> None:
    with pytest.raises(ValueError, match=r"adapter|weight") as error:
        wish(stage, {**MESSAGE, **changes})
    assert len(str(error.value)) < 1000


def test_a_style_leads_nothing_and_a_lead_needs_a_weight(stage: Stage) -> None:
    first, _, ink = stage.adapters
    for lead, weights in ((ink, {ink: 1.0}), (first, {first: 0.0}), (first, {})):
        with pytest.raises(ValueError, match="give it a weight"):
            wish(stage, {**MESSAGE, "lead": lead, "weights": weights})


def test_a_note_says_what_steps_do_not_suit(stage: Stage) -> None:
    assert wish(stage, {**MESSAGE, **lead_of(stage, 0), "steps": 4}).note is None
    assert "worse pictures" in str(wish(stage, {**MESSAGE, **lead_of(stage, 0), "steps": 40}).note)
