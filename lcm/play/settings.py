"""The settings of a view inside the pictures that are saved from it, and read back from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from lcm.play.messages import checked
from lcm.play.pictures import encoded, from_data_url, opened
from lcm.play.stage import Look, Stage
from lcm.system.image_grid import LARGEST_SIDE
from lcm.system.json_input import as_object, parse_object
from lcm.system.text import plain
from lcm.system.values import is_number, one_of, text

CHUNK = "lcm.play"
"""The text of a PNG file that holds them, as JSON."""
LARGEST = 1 << 26
"""Bytes of a PNG file that settings are read from."""
LONGEST_IMAGE = 1 << 20
"""Letters of the picture that a view begins with, as the page sent it; a larger one is left out."""
OF_ALL = ("prompt", "negative", "seed", "guidance")
VIEWS: dict[str, tuple[str, ...]] = {
    "draw": ("lead", "steps"),
    "paint": ("lead", "steps", "strength"),
    "compare": (),
}
"""What a view has besides."""
FIX = "choose a PNG file that was saved here"
WHERE = "in the picture"


def saved(
    stage: Stage, message: Mapping[str, Any], looks: Iterable[Look], **facts: Any
) -> dict[str, str]:
    """The texts for a picture of a `message`, which has been looked at, and was drawn with `looks`;
    `facts` go along.
    """
    view, given = message["view"], message["weights"]
    weights = {name: given[name] for name in given if name in stage.adapters}  # 0 says something
    image = message.get("image") if view == "paint" else None
    settings = {
        "view": view,
        **{name: message[name] for name in (*OF_ALL, *VIEWS[view])},
        "weights": {**weights, **{name: w for look in looks for name, w in look.weights}},
        "base": stage.base,
        **({"image": image} if image and len(image) <= LONGEST_IMAGE else {}),
        **facts,
    }
    return {CHUNK: json.dumps(settings)}


def read_back(content: bytes) -> dict[str, Any]:
    """The settings in a PNG file that was saved here; its pixels are not decoded. Raises ValueError
    for any other.
    """
    chunk = opened(content, ("PNG",), LARGEST_SIDE).info.get(CHUNK)
    if not isinstance(chunk, str):
        raise ValueError(f"the picture holds no settings of the playground; {FIX}")
    settings = parse_object(chunk, "the settings in the picture", FIX)
    view = settings.get("view")
    one_of(VIEWS).check(view, f"view {WHERE}", FIX)
    names = (*OF_ALL, *VIEWS[str(view)])
    found = {"view": view, **{name: checked(settings, name, WHERE, FIX) for name in names}}
    found["weights"] = weights_of(settings)
    base = settings.get("base")
    found["base"] = plain(base, 1000) if isinstance(base, str) else None
    if view == "paint" and "image" in settings:
        text(LONGEST_IMAGE).check(settings["image"], f"image {WHERE}", FIX)
        with from_data_url(settings["image"]) as image:  # an address of ours, not that of the file
            kind = str(image.format).lower()
        found["image"] = f"data:image/{kind};base64,{encoded(settings['image'])}"
    return found


def weights_of(settings: Mapping[str, Any]) -> dict[str, float]:
    """Weights by the names of adapters, be they here or not."""
    weights = as_object(settings.get("weights"), f"weights {WHERE}", FIX)
    if len(weights) > 100:
        raise ValueError(f"weights {WHERE}: {len(weights)} adapters; {FIX}")
    return {plain(name, 100): weight for name, weight in weights.items() if is_number(weight)}
