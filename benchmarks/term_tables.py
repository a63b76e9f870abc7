"""The tables of what terms and a second network cost, from the counts alone."""

from __future__ import annotations

from typing import Any

from benchmarks.counts import BESIDES, GIGA, TERA
from benchmarks.methods.tables import table

NAME = "term_counts.json"
UNIT = "lcm"
"""The step that the others are compared with."""
ORDER = ("no", "selective", "full")
"""Values of --gradient_checkpointing, as tables have them."""


def held_bytes(model: dict[str, Any], step: dict[str, Any], moments: float, cached: bool) -> float:
    """What lies on the card between updates: the U-Net in half precision; without a cache the text
    encoders, likewise, and the VAE in float32; trained numbers, their average, the second network
    and heads in float32, with `moments` bytes of AdamW for each number that learns.
    """
    sizes, learns = model["parameters"], 4 + moments
    encoders = 0 if cached else 2 * sizes["text"] + 4 * sizes["vae"]
    adapters = learns * (1 + step["second"]) + 4 * step["averages"]
    return float(
        2 * sizes["unet"] + encoders + adapters * sizes["trained"] + learns * step["heads"]
    )


def whole_bytes(
    model: dict[str, Any], step: dict[str, Any], mode: str, moments: float, cached: bool
) -> float:
    """The most that an update of one picture has on the card."""
    return held_bytes(model, step, moments, cached) + float(step["modes"][mode]["peak_bytes"])


LADDER: dict[str, tuple[str, float, bool]] = {
    "nothing": ("no", 8.0, False),
    "selective": ("selective", 8.0, False),
    "full": ("full", 8.0, False),
    "full, cache": ("full", 8.0, True),
    "full, cache, 8 bit": ("full", 2.0 + 8 / 256, True),
}
"""What may be turned, the cheapest first: the value of --gradient_checkpointing, bytes of AdamW's
moments for a number, and whether the encoders are off the card.
"""
CARDS = (12, 24, 80)
"""Sizes of GPU memory in GB."""
UNKNOWN = "-"


def over(value: float, unit: float, scale: float) -> str:
    """A value, and how many times the unit's it is."""
    return f"{value / scale:.2f}; {value / unit:.2f}x"


def term_counts_table(results: dict[str, Any]) -> str:
    """A line a model and step: arithmetic, what is held, and the most on the card in every way of
    gradient checkpointing; behind the semicolon in units of `lcm`.
    """
    rows = []
    for model in results["models"].values():
        unit = model["steps"][UNIT]
        for name, step in model["steps"].items():
            cells = [f"{model['title'].split(' at ')[0]}, {name}"]
            known = [mode for mode in ORDER if mode in step["modes"] and mode in unit["modes"]]
            flops, one = (parts["modes"].get("no", {}).get("flops", 0) for parts in (step, unit))
            cells.append(over(flops, one, TERA) if flops and one else UNKNOWN)
            cells.append(f"{held_bytes(model, step, 8.0, False) / GIGA:.2f}")
            for mode in ORDER:
                if mode not in known:
                    cells.append(UNKNOWN)
                    continue
                peak, unit_peak = (
                    whole_bytes(model, parts, mode, 8.0, False) for parts in (step, unit)
                )
                cells.append(over(peak, unit_peak, GIGA))
            rows.append(cells)
    heads = ["an update of one picture", "TFLOP", "GB held"]
    return table([*heads, *(f"GB at the peak, {mode}" for mode in ORDER)], rows)


def cards_table(results: dict[str, Any]) -> str:
    """What has to be turned for an update of one picture on cards of several sizes, and the GB that
    it then takes.
    """
    rows = []
    for model in results["models"].values():
        for name, step in model["steps"].items():
            cells = [f"{model['title'].split(' at ')[0]}, {name}"]
            for card in CARDS:
                cells.append(first_that_fits(model, step, card * GIGA - BESIDES))
            rows.append(cells)
    return table(["", *(f"{card} GB" for card in CARDS)], rows)


def first_that_fits(model: dict[str, Any], step: dict[str, Any], room: float) -> str:
    """The first rung with which an update fits into so many bytes, a dash where that is not counted
    yet.
    """
    for words, (mode, moments, cached) in LADDER.items():
        if mode not in step["modes"]:
            continue
        taken = whole_bytes(model, step, mode, moments, cached)
        if taken <= room:
            return f"{words} ({taken / GIGA:.1f})"
    return "does not fit" if all(mode in step["modes"] for mode in ORDER) else UNKNOWN
