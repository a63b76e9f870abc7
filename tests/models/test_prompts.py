"""What the text encoders see of a text, against what stock diffusers says that it cuts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from lcm.libraries.transformers import HAS_PREFIX
from lcm.models import long_prompts
from lcm.models.families import FAMILIES, load_family
from lcm.models.long_prompts import check_compel, chunks_for
from lcm.models.prompts import (
    Lengths,
    check_clip_skip,
    chosen,
    final_norm,
    lengths,
    notice,
    said_already,
)
from tests.support.prompts import LONG, listen, words
from tests.support.worlds import build_sd, build_sdxl

BUILDS = [build_sd, build_sdxl]
TEXTS = ["", words(74), words(75), words(76), words(300), LONG, "x" * 100, "Größe 貓 " * 9, "\n\t"]


def encode(pipe: Any, text: str) -> None:
    pipe.encode_prompt(
        text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: f"{len(text)} letters")
def test_a_text_is_long_where_stock_diffusers_says_that_it_cuts(
    build: Callable[[], Any], text: str
) -> None:
    pipe = build()
    cut = [said for said in listen(lambda: encode(pipe, text)) if "truncated" in said]
    assert (notice(pipe, [text]) is not None) == bool(cut)


@pytest.mark.parametrize("build", BUILDS)
def test_the_first_words_that_are_cut_are_named(build: Callable[[], Any]) -> None:
    pipe = build()
    text = f"{words(74)}  Red STAR, and more"
    assert notice(pipe, ["blue", text, text]) == (
        "2 of 3 prompts are longer than 77 tokens (75 of words): of "
        f"{text[:28] + '...' + text[-28:]!r} what follows from 'STAR, and more' on is not seen"
    )
    assert notice(pipe, [words(76)]) is not None
    assert "\x1b" not in str(notice(pipe, [words(75) + " \x1b[31m\nx"]))
    assert notice(pipe, []) is None


def test_the_tokenizer_that_sees_least_decides() -> None:
    pipe = build_sdxl()
    pipe.tokenizer_2.add_tokens(["starlight"])
    (one,) = lengths(pipe, ["starlight"])
    assert one == len(pipe.tokenizer("starlight").input_ids) > 3
    pipe.tokenizer, pipe.tokenizer_2 = pipe.tokenizer_2, pipe.tokenizer
    assert lengths(pipe, ["starlight"]) == [one]


def test_of_very_many_texts_evenly_chosen_ones_are_counted() -> None:
    texts = list(map(str, range(100)))
    assert chosen(texts, most=100) == texts
    some = chosen(texts, most=30)
    assert len(set(some)) == 30
    assert {int(b) - int(a) for a, b in pairwise(some)} == {3, 4}
    assert Lengths(100, 30, 2, 77).said("captions") == (
        "2 of 30 captions of 100, evenly chosen, are longer than 77 tokens (75 of words)"
    )


@pytest.mark.parametrize("build", BUILDS)
def test_the_libraries_say_nothing_where_it_has_been_said(build: Callable[[], Any]) -> None:
    pipe = build()

    def nested() -> None:
        with said_already(pipe):
            with said_already(pipe):
                encode(pipe, LONG)
            encode(pipe, LONG)

    assert listen(nested) == []
    assert listen(lambda: encode(pipe, LONG)) != []


# --- chunks ---------------------------------------------------------------------------------------


def test_without_the_package_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_prompts, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^long_prompts: .* pip install compel, or pass "):
        check_compel()
    assert chunks_for(build_sd(), ["short"]) == 1


# --- clip_skip ------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDS)
def test_layers_are_left_out_exactly_where_stock_diffusers_can(build: Callable[[], Any]) -> None:
    pipe = build()

    def works(clip_skip: int) -> bool:
        try:
            pipe.encode_prompt("x", "cpu", clip_skip=clip_skip) if "sdxl" in build.__name__ else (
                pipe.encode_prompt("x", "cpu", 1, False, clip_skip=clip_skip)
            )
        except IndexError:
            return False
        return True

    with final_norm(pipe):
        for clip_skip in range(5):
            if works(clip_skip):
                check_clip_skip(pipe, clip_skip)
            else:
                with pytest.raises(ValueError, match=r"^clip_skip: .* from 0 to [12], not "):
                    check_clip_skip(pipe, clip_skip)
    for nonsense in (-1, True, 1.0, "1"):
        with pytest.raises(ValueError, match=r"^clip_skip: "):
            check_clip_skip(pipe, nonsense)


def test_a_teacher_with_too_few_layers_is_refused(sd_folder: Any) -> None:
    with pytest.raises(ValueError, match=r"^clip_skip: .* pass a whole number from 0 to 2, not 3$"):
        load_family(str(sd_folder), clip_skip=3)


@pytest.mark.skipif(HAS_PREFIX, reason="text_model is a part of it")
def test_nothing_stays_in_the_text_encoder() -> None:
    """By the name `text_model` diffusers tells which version of transformers made an encoder, and
    reads adapters by that."""
    pipe = build_sd()
    family = FAMILIES["StableDiffusionPipeline"](pipe, 1)
    family.embed_prompts(["x"])
    with final_norm(pipe):
        with final_norm(pipe):
            assert pipe.text_encoder.text_model.final_layer_norm is not None
        assert hasattr(pipe.text_encoder, "text_model")
    assert not hasattr(pipe.text_encoder, "text_model")
