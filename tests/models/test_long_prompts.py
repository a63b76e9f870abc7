"""Prompts in chunks, against compel's own classes for pipelines of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lcm.models.conditioning import ImageSize
from lcm.models.families import FAMILIES
from lcm.models.long_prompts import (
    MOST_CHUNKS,
    chunks_for,
    chunks_needed,
    prompt_arguments,
)
from lcm.models.prompts import final_norm
from tests.support.prompts import LONG, words
from tests.support.worlds import build_sd, build_sdxl

compel = pytest.importorskip("compel")

TEXTS = ["a red star. " * 30, "(a red:1.3) star++", ""]
"""Of two chunks, of compel's syntax, which captions do not have, and of nothing."""


def theirs_of(pipe: Any, texts: list[str]) -> Any:
    """What compel makes of texts without syntax, padded to the longest."""
    kind = compel.CompelForSDXL if "XL" in type(pipe).__name__ else compel.CompelForSD
    return kind(pipe)(texts)


@pytest.mark.parametrize("build", [build_sd, build_sdxl])
def test_embeddings_are_those_of_compel(build: Callable[[], Any]) -> None:
    pipe = build()
    long, syntax, empty = TEXTS
    assert chunks_needed(pipe, TEXTS) == [2, 1, 1]
    mine = prompt_arguments(pipe, [long, empty], [empty, long], chunks=2, guided=True)
    theirs = theirs_of(pipe, [long, empty])
    assert torch.equal(mine["prompt_embeds"], theirs.embeds)
    assert torch.equal(mine["negative_prompt_embeds"], theirs.embeds.flip(0))
    if theirs.pooled_embeds is not None:
        assert torch.equal(mine["pooled_prompt_embeds"], theirs.pooled_embeds)
    # of one chunk, what stock diffusers makes of the text as it stands
    stock = pipe.encode_prompt(
        syntax, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    one = prompt_arguments(pipe, [syntax], chunks=3)["prompt_embeds"]
    assert torch.equal(one[:, :77], stock[0])
    assert torch.equal(one[:, 77:154], one[:, 154:])


@pytest.mark.parametrize("build", [build_sd, build_sdxl])
def test_training_conditions_as_playback_does(build: Callable[[], Any]) -> None:
    pipe = build()
    family = FAMILIES[type(pipe).__name__](pipe)
    family.chunks = 2
    cond = family.encode_prompts(TEXTS, [ImageSize(16, 16, 0, 0, 16, 16)] * 3)
    uncond = family.unconditional(cond)
    call = prompt_arguments(pipe, TEXTS, chunks=2, guided=True)
    assert torch.equal(cond.prompt_embeds, call["prompt_embeds"])
    assert torch.equal(uncond.prompt_embeds, call["negative_prompt_embeds"])
    zeros = bool(pipe.config.get("force_zeros_for_empty_prompt"))
    assert bool((uncond.prompt_embeds == 0).all()) is zeros
    if cond.pooled_prompt_embeds is not None:
        assert torch.equal(cond.pooled_prompt_embeds, call["pooled_prompt_embeds"])
        assert torch.equal(uncond.pooled_prompt_embeds, call["negative_pooled_prompt_embeds"])
    pipe(**call, num_inference_steps=1, guidance_scale=3.0, height=16, width=16)


def test_prompts_that_differ_at_their_ends_are_different_ones() -> None:
    pipe = build_sd()
    family = FAMILIES["StableDiffusionPipeline"](pipe)
    ends = [f"{LONG} red", f"{LONG} blue"]
    one, other = family.token_ids(ends)
    assert torch.equal(one, other)
    family.chunks = 3
    one, other = family.token_ids(ends)
    assert not torch.equal(one, other)
    red, blue = family.embed_prompts(ends)["prompt_embeds"]
    assert not torch.equal(red, blue)


def test_a_layer_is_left_out_in_chunks_where_compel_can() -> None:
    pipe = build_sd()
    with final_norm(pipe):
        stock = pipe.encode_prompt("x", "cpu", 1, True, clip_skip=1)
    call = prompt_arguments(pipe, ["x"], chunks=2, clip_skip=1, guided=True)
    assert torch.equal(call["prompt_embeds"][:, :77], stock[0])
    assert torch.equal(call["negative_prompt_embeds"][:, :77], stock[1])
    for other, clip_skip in ((pipe, 2), (build_sdxl(), 1)):
        with pytest.raises(ValueError, match=rf"^long_prompts: .* can be {clip_skip - 1} at"):
            prompt_arguments(other, ["x"], chunks=2, clip_skip=clip_skip)


def test_there_is_an_end_to_chunks() -> None:
    pipe, texts = build_sd(), [words(n) for n in (75, 76, 300, 301, 50_000)]
    needed = chunks_needed(pipe, texts)
    assert needed[:2] == [1, 2] and needed[2] == MOST_CHUNKS
    assert needed[3:] == [MOST_CHUNKS + 1] * 2
    call = prompt_arguments(pipe, texts[3:], chunks=chunks_for(pipe, texts))
    assert call["prompt_embeds"].shape[1] == 77 * MOST_CHUNKS
