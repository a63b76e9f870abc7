"""What terms and a second network cost, counted: the count itself, and the limits that it has."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.counts import BESIDES, GIGA, RESULTS, build_loss, build_unet, count_step
from benchmarks.published import MODELS, Model
from benchmarks.term_counts import STEPS, count_model, mean_passes
from benchmarks.term_tables import (
    NAME,
    ORDER,
    UNIT,
    cards_table,
    first_that_fits,
    held_bytes,
    term_counts_table,
    whole_bytes,
)
from lcm.methods.dmd import PlayedByStudent

SMALL = {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
"""Changes to the U-Net of Stable Diffusion 1.5, whose count then takes a second."""

SOME = (UNIT, "lcm + latent_perceptual", "lcm + adversarial", "dmd")


def small_model() -> Model:
    return replace(MODELS["sd15"], changes=SMALL)


@functools.cache
def counted() -> dict[str, Any]:
    found: dict[str, Any] = {}
    count_model(small_model(), found, lambda: None, modes=("no",), names=SOME)
    return found


def flops(name: str) -> int:
    return int(counted()["steps"][name]["modes"]["no"]["flops"])


def test_without_a_term_it_is_the_step_of_the_counts() -> None:
    assert flops(UNIT) == count_step(small_model(), 1)["flops_per_image"]


def test_whatever_is_added_costs_and_is_held() -> None:
    steps = counted()["steps"]
    assert set(SOME) == steps.keys() <= STEPS.keys()
    assert all(flops(name) > flops(UNIT) for name in SOME if name != UNIT)
    assert [name for name in SOME if steps[name]["second"]] == ["dmd"]
    assert [name for name in SOME if steps[name]["heads"]] == ["lcm + adversarial"]
    assert [name for name in SOME if not steps[name]["averages"]] == ["dmd"]


def test_the_passes_of_a_play_are_counted_by_their_mean() -> None:
    """1, 2 and 4 steps alike, every place alike: (0 + 1/2 + 3/2) / 3."""
    played = build_loss(build_unet(small_model()), objective="dmd").simulation
    assert isinstance(played, PlayedByStudent)
    assert mean_passes(played) == pytest.approx(2 / 3, abs=1e-3)


MODEL: dict[str, Any] = {
    "title": "A at 8",
    "parameters": {"unet": 2e9, "trained": 0.1e9, "vae": 0.1e9, "text": 0.5e9},
}
STEP: dict[str, Any] = {
    "averages": 1,
    "second": 1,
    "heads": 0.05e9,
    "modes": {
        "no": {"flops": 2e12, "peak_bytes": 20e9},
        "selective": {"flops": 2e12, "peak_bytes": 10e9},
        "full": {"flops": 3e12, "peak_bytes": 3e9},
    },
}


def test_what_is_held_is_counted_by_hand() -> None:
    """GB: 4 of the U-Net, 1 and 0.4 of the encoders, 1.2 for the adapter and as much for the second
    one, 0.4 of the average, 0.6 of the heads.
    """
    assert held_bytes(MODEL, STEP, 8.0, False) == pytest.approx(8.8e9)
    assert held_bytes(MODEL, STEP, 8.0, True) == pytest.approx(7.4e9)
    assert held_bytes(MODEL, {**STEP, "second": 0}, 2.0, True) == pytest.approx(5.3e9)


def test_the_first_rung_that_fits_is_named() -> None:
    assert first_that_fits(MODEL, STEP, 30e9) == "nothing (28.8)"
    assert first_that_fits(MODEL, STEP, 19e9) == "selective (18.8)"
    assert first_that_fits(MODEL, STEP, 12e9) == "full (11.8)"
    assert first_that_fits(MODEL, STEP, 11e9) == "full, cache (10.4)"
    assert first_that_fits(MODEL, STEP, 1e9) == "does not fit"
    not_counted = {**STEP, "modes": {"no": STEP["modes"]["no"]}}
    assert first_that_fits(MODEL, not_counted, 1e9) == "-"
    results = {"models": {"a": {**MODEL, "steps": {UNIT: STEP}}}}
    assert "| A, lcm | 2.00; 1.00x | 8.80 | 28.80; 1.00x | 18.80; 1.00x | 11.80; 1.00x |" in (
        term_counts_table(results)
    )
    assert "| A, lcm | full, cache (10.4) | selective (18.8) | nothing (28.8) |" in cards_table(
        results
    )


def test_the_recorded_counts_keep_their_limits() -> None:
    """A step with `latent_perceptual` takes at most 1.15 times the arithmetic of one of `lcm`, with
    `adversarial` 1.5 times; `dmd` at SDXL's size 1.3 times the memory, and 24 GB are enough.
    """
    models = json.loads((RESULTS / NAME).read_text())["models"]
    for model in models.values():
        unit, steps = model["steps"][UNIT]["modes"]["no"]["flops"], model["steps"]
        for name, most in (("lcm + latent_perceptual", 1.15), ("lcm + adversarial", 1.5)):
            assert steps[name]["modes"]["no"]["flops"] <= most * unit
    sdxl = models["sdxl"]
    known = [mode for mode in ORDER if mode in sdxl["steps"]["dmd"]["modes"]]
    for mode in known:
        bytes_of = functools.partial(whole_bytes, sdxl, mode=mode, moments=8.0, cached=False)
        assert bytes_of(sdxl["steps"]["dmd"]) <= 1.3 * bytes_of(sdxl["steps"][UNIT])
    for name in ("lcm + latent_perceptual", "lcm + adversarial", "lcm + dmd", "dmd", "hyper"):
        found = first_that_fits(sdxl, sdxl["steps"][name], 24 * GIGA - BESIDES)
        assert found != "does not fit", name
