"""Prompts that are too long for the text encoders, and what the libraries say of them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import transformers

LONG = "a red star, " * 40 + "and a blue ring"


def words(count: int) -> str:
    """So many words, each a token of the tokenizers of the tests."""
    return " ".join(["a"] * count)


@contextmanager
def heard() -> Iterator[list[str]]:
    """Everything that is said inside the block, by warnings and by the libraries' logs, which are
    as loud as they are by themselves.
    """
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    ear, libraries = Ear(), (diffusers, transformers)
    levels = [library.utils.logging.get_verbosity() for library in libraries]
    for library in libraries:
        library.utils.logging.set_verbosity_warning()
        logging.getLogger(library.__name__).addHandler(ear)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.utils.logging.set_verbosity(level)
            logging.getLogger(library.__name__).removeHandler(ear)
    said += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def of_length(said: list[str]) -> list[str]:
    """What is about the length of prompts."""
    return [text for text in said if "tokens" in text]


def listen(work: Callable[[], Any]) -> list[str]:
    """What is said of the length of prompts while this is done."""
    with heard() as said:
        work()
    return of_length(said)


def skippable(pipe: Any) -> Any:
    """A stock pipeline whose `clip_skip` is as diffusers means it (huggingface/diffusers#14124)."""
    if not hasattr(pipe.text_encoder, "text_model"):
        vars(pipe.text_encoder)["text_model"] = pipe.text_encoder
    return pipe
