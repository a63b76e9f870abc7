"""The texts of a pipeline's call. What of them is not seen is said once; with an adapter that was
trained on prompts of several chunks they are embedded so.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

from lcm.adapter.recipe import Recipe
from lcm.inference.call_defaults import is_off
from lcm.inference.call_warnings import frames_to_the_caller
from lcm.inference.state import attachment, own_attachment
from lcm.models.long_prompts import (
    MOST_CHUNKS,
    check_compel,
    check_layers,
    chunks_for,
    limit_of,
    prompt_arguments,
)
from lcm.models.prompts import (
    check_clip_skip,
    check_text,
    final_norm,
    notice,
    said_already,
    stock_encode,
    strings,
)

LENGTH = "length"
"""What warnings of long prompts are remembered by."""
TEXTS = ("prompt", "prompt_2")
NEGATIVE = ("negative_prompt", "negative_prompt_2")


def encoding(method: Callable[..., Any]) -> Callable[..., Any]:
    """`encode_prompt` of a class, as pipelines with an adapter have it.

    Raises ValueError for a text that is not UTF-8, and for more layers to leave out than there are.
    """

    @wraps(method)
    def encode(self: Any, *args: Any, **options: Any) -> Any:
        found = own_attachment(self)
        bound = inspect.signature(stock_encode(self)).bind(self, *args, **options)
        given = bound.arguments
        check_texts(self, given)
        with final_norm(self):
            if found is None or is_off(self, found):
                return method(self, *args, **options)
            guided = given.get("do_classifier_free_guidance", True)
            say_once(self, found.warned, {"guidance_scale": 2.0 if guided else 1.0, **given})
            if found.recipe.prompt_chunks > 1:
                given.update(in_chunks(self, found.recipe, given, guided))
            with said_already(self):
                return method(*bound.args, **bound.kwargs)

    return encode


def check_texts(pipe: Any, given: Mapping[str, Any]) -> None:
    """Raises ValueError for arguments that no text encoder can take."""
    for name in (*TEXTS, *NEGATIVE):
        check_text(name, given.get(name))
    check_clip_skip(pipe, given.get("clip_skip"))


def in_chunks(pipe: Any, recipe: Recipe, given: Mapping[str, Any], guided: bool) -> dict[str, Any]:
    """What takes the place of the texts among the arguments of `encode_prompt`; nothing where they
    are embedded already, or each text encoder has its own.
    """
    others = ("prompt_2", "negative_prompt_2", "prompt_embeds", "negative_prompt_embeds")
    if given.get("prompt") is None or any(given.get(name) is not None for name in others):
        return {}
    prompts, negative = (as_list(given.get(name)) for name in ("prompt", "negative_prompt"))
    if len(negative) == 1:
        negative *= len(prompts)
    chunks = chunks_for(pipe, [*prompts, *negative], recipe.prompt_chunks)
    clip_skip = given.get("clip_skip") or None
    found = prompt_arguments(
        pipe, prompts, negative or None, chunks=chunks, clip_skip=clip_skip, guided=guided
    )
    return {"prompt": None, "negative_prompt": None, **found}


def as_list(texts: Any) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts or [])


def say_once(pipe: Any, warned: set[str], arguments: Mapping[str, Any]) -> None:
    """Warns of prompts, among the arguments of a call, that are too long: once per `attach`, or
    once for `warned` of a pipeline that nothing is attached to.
    """
    found = attachment(pipe)
    said = warned if found is None else found.warned
    if LENGTH in said:
        return
    has_chunks = found is not None and found.recipe.prompt_chunks > 1
    limit = limit_of(pipe, MOST_CHUNKS) if has_chunks else None
    names = TEXTS if arguments["guidance_scale"] <= 1 else (*TEXTS, *NEGATIVE)
    problem = notice(pipe, strings(arguments.get(name) for name in names), limit)
    if problem is not None:
        said.add(LENGTH)
        warnings.warn(problem, UserWarning, stacklevel=frames_to_the_caller())


def settle_texts(
    pipe: Any, prompts: Sequence[str], settings: Any, asked: str | None
) -> tuple[Any, str | None]:
    """The settings of pictures that are drawn together, with the number of chunks of their prompts:
    what these need where "chunks" are `asked` for, or nothing is and the recipe has some. And a
    sentence on prompts that are too long even so; the pipeline says no more of them.

    Raises ValueError where chunks cannot be made.
    """
    texts, chunks = strings([prompts, settings.negative_prompt]), 1
    if asked == "chunks" or (asked is None and settings.prompt_chunks > 1):
        check_compel()
        check_layers(pipe, settings.clip_skip)
        chunks = chunks_for(pipe, texts, settings.prompt_chunks)
    if (found := attachment(pipe)) is not None:
        found.warned.add(LENGTH)
        found.recipe = replace(found.recipe, prompt_chunks=1)  # it is settled
    problem = notice(pipe, texts, limit_of(pipe, chunks))
    return replace(settings, prompt_chunks=chunks), problem
