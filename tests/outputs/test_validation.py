"""What a validation grid shows when nobody says it."""

from __future__ import annotations

import pytest
from PIL import Image

from lcm.data.records import Record
from lcm.outputs.validation import GridSpec, Row, label_grid, prompts_of
from lcm.system.image_grid import Layout


def records(*captions: str) -> list[Record]:
    return [Record(str(i), (caption, f"another {caption}")) for i, caption in enumerate(captions)]


@pytest.mark.parametrize("number", [1, 3, 4, 9])
def test_prompts_are_distinct_first_captions_of_the_data_and_always_the_same(number: int) -> None:
    captions = [f"picture {i}" for i in range(number)]
    prompts = prompts_of(records(*captions, *captions))
    assert len(prompts) == len(set(prompts)) == min(4, number)
    assert set(prompts) <= set(captions)
    assert prompts == prompts_of(records(*captions, *captions))


def test_the_row_of_a_prompt_without_words_is_named_too() -> None:
    spec = GridSpec(["", " \n", "blue"], [1], seed=0, resolution=8, guidance_scale=1.0)
    rows = [Row([Image.new("RGB", (8, 8))], []) for _ in spec.prompts]
    layout = Layout.of(label_grid(spec, rows, None))
    assert layout is not None
    assert layout.rows == ["(empty prompt)", "(empty prompt)", "blue"]
