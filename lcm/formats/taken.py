"""How much of an adapter a program takes."""

from __future__ import annotations

from dataclasses import dataclass

from lcm.formats.factors import Adapter


@dataclass(frozen=True)
class Taken:
    """What a program takes of the U-Net's adapted layers: how many, how many of these with another
    strength, the first left out.
    """

    count: int
    misscaled: int
    missing: str = ""
    error: str = ""


def taken(adapter: Adapter, scales: dict[str, float]) -> Taken:
    """Compares the scales that a program gives to layers with what the file means."""
    layers = adapter.component("unet")
    found = {name: scale for name, scale in scales.items() if name in layers}
    missing = [name for name in layers if name not in found]
    wrong = sum(
        abs(scale - layers[name].scale) > 1e-3 * abs(layers[name].scale)
        for name, scale in found.items()
    )
    return Taken(len(found), wrong, missing[0] if missing else "")
