"""Prompts as the text encoders of a pipeline take them: how much of a text they see, and which of
their layers is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from lcm.libraries.transformers import with_offsets
from lcm.system.text import SHOWN, plain
from lcm.system.values import is_whole
from lcm.system.words import fault_of_text

AT_ONCE = 1024


def tokenizers_of(pipe: Any) -> list[Any]:
    """One tokenizer for every text encoder: SDXL has two."""
    found = (getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2"))
    return [tokenizer for tokenizer in found if tokenizer is not None]


def encoders_of(pipe: Any) -> list[Any]:
    """The text encoders that a pipeline has."""
    found = (getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2"))
    return [encoder for encoder in found if encoder is not None]


# --- clip_skip ------------------------------------------------------------------------------------


def check_clip_skip(pipe: Any, clip_skip: Any) -> None:
    """Raises ValueError for a number of layers that the text encoders cannot leave out; None leaves
    out none.
    """
    encoders = encoders_of(pipe)
    if clip_skip is None or not encoders:
        return
    # SDXL takes the layer before the last one anyway
    most = min(encoder.config.num_hidden_layers for encoder in encoders)
    most -= int(hasattr(pipe, "text_encoder_2"))
    if not is_whole(clip_skip) or not 0 <= clip_skip <= most:
        raise ValueError(
            f"clip_skip: the text encoders of this model have {most} layers that can be left out; "
            f"pass a whole number from 0 to {most}, not {clip_skip!r}"
        )


@contextmanager
def final_norm(pipe: Any) -> Iterator[None]:
    """Inside the block `encode_prompt` of Stable Diffusion pipelines can leave out layers.

    diffusers looks for the last norm of a text encoder at `text_model`, which transformers has no
    more since 5.6 (huggingface/diffusers#14124). It cannot stay there: by that very name diffusers
    tells, where it loads adapters, which version of transformers made the encoder.
    """
    encoder = getattr(pipe, "text_encoder", None)
    is_lost = isinstance(encoder, nn.Module) and not hasattr(encoder, "text_model")
    if is_lost:
        vars(encoder)["text_model"] = encoder  # not as a part: it would be one of itself
    try:
        yield
    finally:
        if is_lost:
            vars(encoder).pop("text_model", None)


def stock_encode(pipe: Any) -> Any:
    """The `encode_prompt` of diffusers, which pipelines of this package wrap."""
    found = (vars(kind).get("encode_prompt") for kind in reversed(type(pipe).__mro__))
    return next(method for method in found if method is not None)


# --- what does not fit ----------------------------------------------------------------------------


def tokens_seen(pipe: Any) -> int:
    """The tokens of a text that every text encoder sees, its beginning and end included: 77."""
    return min(int(tokenizer.model_max_length) for tokenizer in tokenizers_of(pipe))


def lengths(pipe: Any, texts: Sequence[str]) -> list[int]:
    """The tokens of every text, beginning and end included, by the tokenizer that makes most of
    it.
    """
    found: list[int] = []
    for start in range(0, len(texts), AT_ONCE):
        part = list(texts[start : start + AT_ONCE])
        counts = [
            [len(ids) for ids in tokenizer(part, verbose=False).input_ids]
            for tokenizer in tokenizers_of(pipe)
        ]
        found += [max(each) for each in zip(*counts, strict=True)]
    return found


def unseen(pipe: Any, text: str, limit: int) -> str:
    """The rest of a text behind its first `limit` tokens, for the tokenizer that leaves most of
    it; empty where there is none.
    """
    rests = []
    for tokenizer in tokenizers_of(pipe):
        found = with_offsets(tokenizer)(text, verbose=False, return_offsets_mapping=True)
        if len(found.input_ids) > limit:
            # the last one that is seen is the end of the text
            rests.append(text[found.offset_mapping[limit - 1][0] :])
    return max(rests, key=len, default="")


@dataclass(frozen=True)
class Lengths:
    """Of a number of texts, how many have more tokens than `limit`: of all, or of so many as were
    `counted`.
    """

    texts: int
    counted: int
    long: int
    limit: int

    def said(self, what: str) -> str:
        """Such as "2 of 9 captions are longer than 77 tokens (75 of words)"."""
        of = f"{self.counted} {what}"
        if self.counted < self.texts:
            of = f"{self.counted} {what} of {self.texts}, evenly chosen,"
        verb = "is" if self.long == 1 else "are"
        return f"{self.long} of {of} {verb} {self.longer}"

    @property
    def longer(self) -> str:
        """Such as "longer than 77 tokens (75 of words)": the others are the marks at both ends."""
        return f"longer than {self.limit} tokens ({self.limit - 2} of words)"


COUNTED = 100_000
"""So many captions are counted, some ten seconds' work, and evenly chosen ones of more."""


def chosen(texts: Sequence[str], most: int = COUNTED) -> Sequence[str]:
    """All of the texts, or so many of them, evenly."""
    if len(texts) <= most:
        return texts
    return [texts[i * len(texts) // most] for i in range(most)]


def strings(texts: Iterable[Any]) -> list[str]:
    """Every text once, of arguments that are one, several or none."""
    each = [text for one in texts for text in (one if isinstance(one, list | tuple) else [one])]
    return [text for text in dict.fromkeys(each) if isinstance(text, str)]


def check_text(name: str, texts: Any) -> None:
    """Raises ValueError, with the `name` of the argument, for a text that no tokenizer takes, such
    as bytes of another encoding.
    """
    for text in strings([texts]):
        if fault := fault_of_text(text, may_be_blank=True):
            raise ValueError(f"{name} {fault}")


def notice(pipe: Any, texts: Sequence[str], limit: int | None = None) -> str | None:
    """One sentence on prompts of which the text encoders see only a part, with the first words of
    the first that are left out; None where there are none.
    """
    limit = limit or tokens_seen(pipe)
    long = [text for text, n in zip(texts, lengths(pipe, texts), strict=True) if n > limit]
    if not long:
        return None
    found = Lengths(len(texts), len(texts), len(long), limit)
    said = "a prompt is " + found.longer if len(texts) == 1 else found.said("prompts")
    return (
        f"{said}: of '{plain(long[0], SHOWN)}' what follows from "
        f"'{first_words(unseen(pipe, long[0], limit))}' on is not seen"
    )


def first_words(text: str) -> str:
    """The beginning of a text, on one line."""
    line = plain(text[: 2 * SHOWN])
    if len(line) <= SHOWN:
        return line
    return line[:SHOWN].rpartition(" ")[0] or line[:SHOWN]


SAID_BY_LIBRARIES = (
    "The following part of your input was truncated",
    "Token indices sequence length is longer",
)
"""How diffusers and transformers begin what they say of long prompts."""


@contextmanager
def said_already(pipe: Any) -> Iterator[None]:
    """Inside the block the libraries do not say for every call, and for every text encoder, that a
    prompt is too long: it has been said.
    """
    names = (stock_encode(pipe).__module__, "transformers.tokenization_utils_base")
    loggers = [logging.getLogger(name) for name in names]

    def is_news(record: logging.LogRecord) -> bool:  # of this block alone, among several
        return not str(record.msg).startswith(SAID_BY_LIBRARIES)

    for logger in loggers:
        logger.addFilter(is_news)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_news)
