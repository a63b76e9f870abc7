"""What a validation grid shows when nobody says it."""

from __future__ import annotations

import pytest

from lcm.data.records import Record
from lcm.outputs.validation import prompts_of


def records(*captions: str) -> list[Record]:
    return [Record(str(i), (caption, f"another {caption}")) for i, caption in enumerate(captions)]


@pytest.mark.parametrize("number", [1, 3, 4, 9])
def test_prompts_are_distinct_first_captions_of_the_data_and_always_the_same(number: int) -> None:
    captions = [f"picture {i}" for i in range(number)]
    prompts = prompts_of(records(*captions, *captions))
    assert len(prompts) == len(set(prompts)) == min(4, number)
    assert set(prompts) <= set(captions)
    assert prompts == prompts_of(records(*captions, *captions))
