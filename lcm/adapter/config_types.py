"""Whether the configuration of a network or scheduler has values of the types that its class
declares: the libraries take any, and fail when a picture is drawn.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import diffusers

from lcm.system.values import Rule, is_number, is_whole, number, shown, whole

OF_TRANSFORMERS: dict[str, Rule] = {
    "eos_token_id": whole(0, 1 << 24),
    "layer_norm_eps": number(0, 1),
    "num_attention_heads": whole(1, 1000),
    "model_max_length": whole(1, 10**31),
}
"""Entries of text encoders and tokenizers that transformers does not look at itself."""

LEFT = ("sample_size",)
"""Entries of which classes take more than their annotations say."""


def check_types(facts: Mapping[str, Any], path: Path, class_name: str, fix: str) -> None:
    """Raises ValueError naming the first entry whose value is not of the type that the class, of
    diffusers or transformers, takes.
    """
    for name, rule in OF_TRANSFORMERS.items() if class_name.startswith("CLIP") else ():
        if name in facts:
            rule.check(facts[name], f"{path}: {name}", fix)
    model_class: Any = getattr(diffusers, class_name, None)
    if not hasattr(model_class, "load_config"):
        return
    hints = get_type_hints(model_class.__init__)
    for name, parameter in inspect.signature(model_class.__init__).parameters.items():
        hint = hints.get(name)
        value = facts.get(name, parameter.default)
        if hint is None or name in LEFT or is_default(value, parameter.default):
            continue
        if not fits(value, hint):
            wanted = " or ".join(in_words(hint))
            raise ValueError(f"{path}: {name} is {shown(value)}, not {wanted}; {fix}")


def is_default(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON can be what an annotation says, as far as it matters: a size is not
    negative, a tuple is a list here, null stands for false, and words and what is in a list are
    left to the class, as are annotations of another kind. Published models are no stricter.
    """
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return any(isinstance(value, type(one)) for one in inner)
    known: dict[Any, bool] = {
        float: is_number(value) and not math.isnan(value),
        int: is_whole(value) and value >= 0,
        bool: isinstance(value, bool | None),
        tuple: isinstance(value, list),
        list: isinstance(value, list),
        str: isinstance(value, str),
        type(None): value is None,
    }
    return known.get(origin, not inspect.isclass(origin))


def in_words(hint: Any) -> Iterator[str]:
    """The kinds of values that an annotation takes."""
    if get_origin(hint) in (Union, types.UnionType):
        for one in get_args(hint):
            yield from in_words(one)
    elif get_origin(hint) is Literal:
        yield "a text"
    else:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        kind = get_origin(hint) or hint
        yield names.get(kind, "null" if kind is type(None) else "a list")
