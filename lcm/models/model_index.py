"""model_index.json, the table of contents of a diffusers folder, read before any library reads it.

It names for every component a library and a class, and the libraries import what it names. Here it
is data: a name may stand in it only where the pipeline class itself declares it.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import diffusers

from lcm.adapter.model_folder import FIX
from lcm.system.json_input import kind, read_object
from lcm.system.text import plain
from lcm.system.values import TRUTH, optional, shown, word

INDEX_NAME = "model_index.json"
REQUIRED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
LARGEST = 1 << 20
"""Bytes of the file, of which some hundred are usual."""
NOTHING = [None, None]
"""What an index has in place of a component that the folder is without."""

WIDER = {
    "feature_extractor": ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor"),
    "tokenizer": ("CLIPTokenizerFast",),
    "tokenizer_2": ("CLIPTokenizerFast",),
}
"""Component -> classes of transformers besides the declared one: the same by an earlier name, or
with another backend.
"""


def pairs(pipeline_class: type) -> dict[str, set[tuple[str, str]]]:
    """Component -> the [library, class] pairs that an index may name for it, from the annotations
    of the class that takes them; any scheduler of diffusers where one is taken.
    """
    allowed = {}
    for name, types in pipeline_class._get_signature_types().items():  # type: ignore[attr-defined]
        found = {
            pair(one) for one in types if inspect.isclass(one) and one not in (bool, type(None))
        }
        if name == "scheduler":
            found = {("diffusers", scheduler) for scheduler in schedulers()}
        if found:
            allowed[name] = found | {("transformers", wider) for wider in WIDER.get(name, ())}
    return allowed


def pair(component_class: type) -> tuple[str, str]:
    """As diffusers writes it: the pipelines' own components by the name of their folder."""
    library, *inner = component_class.__module__.split(".")
    if inner[:1] == ["pipelines"]:
        library = inner[1]
    return library, component_class.__name__


def schedulers() -> list[str]:
    """The names of all schedulers of diffusers, none of which is imported for this."""
    return [name for name in diffusers.schedulers.__all__ if name.endswith("Scheduler")]


def read_index(path: Path, argument: str, classes: Collection[str]) -> dict[str, Any]:
    """What a model_index.json says, all of whose names are known to be harmless: it is of one of
    the pipeline `classes` of diffusers, and names what that class declares. Imports nothing.

    Raises ValueError, in one line, naming the file, the entry and the fix.
    """
    try:
        index = read_object(path, FIX, LARGEST)
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error
    check_class(index.get("_class_name"), str(path.parent), argument, classes)
    check_components(index, f"{argument}: {path}")
    return index


def check_class(name: Any, where: str, argument: str, classes: Collection[str]) -> None:
    """Raises ValueError for a model of another pipeline class, or of one with code of its own."""
    ours = f"this toolkit works with {' and '.join(classes)} checkpoints"
    if not word(100).holds(name):
        raise ValueError(
            f"{argument}: {where}/{INDEX_NAME}: _class_name is {shown(name)}, not the name of a "
            f"pipeline class; {ours}, and runs no code that comes with a model"
        )
    if name not in classes:
        raise ValueError(f"{argument}: {where} is a {name}; {ours}")


def check_components(index: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for a component that the pipeline class does not have, or not of this
    class, and for what is no component.
    """
    pipeline_class = getattr(diffusers, index["_class_name"])
    allowed = pairs(pipeline_class)
    options = set(inspect.signature(pipeline_class.__init__).parameters) - allowed.keys()
    # diffusers takes some of the second text encoder's parts for optional, and fails without them
    texts = [name for name in allowed if name.startswith(("text_encoder", "tokenizer"))]
    for name in dict.fromkeys((*REQUIRED, *texts)):
        if index.get(name) in (None, NOTHING):
            raise ValueError(
                f"{where}: {name} is missing, which a {pipeline_class.__name__} has; {FIX}"
            )
    for name, value in index.items():
        known = allowed.get(name)
        if isinstance(value, list | dict) and value != NOTHING:
            if known is None:
                raise ValueError(
                    f"{where}: {shown(name)} is no component of {pipeline_class.__name__}; take it "
                    f"out, or {FIX}"
                )
            check_pair(value, known, f"{where}: {name}")
        elif known is not None and value != NOTHING:
            raise ValueError(
                f"{where}: {name} is {kind(value)}, not a [library, class] pair; {FIX}"
            )
        elif name in options:
            optional(TRUTH).check(value, f"{where}: {name}", FIX)


def check_pair(value: Any, known: set[tuple[str, str]], where: str) -> None:
    """Raises ValueError unless it is one of the known [library, class] pairs."""
    if not isinstance(value, list) or [*map(type, value)] != [str, str]:
        raise ValueError(f"{where} is {shown(value)}, not a [library, class] pair; {FIX}")
    if tuple(value) not in known:
        some = " or ".join(map(".".join, sorted(known)))
        raise ValueError(
            f"{where} names {plain('.'.join(value), 100)}, which is not imported; this pipeline "
            f"takes {some if len(known) < 5 else 'a scheduler of diffusers'}; {FIX}"
        )
