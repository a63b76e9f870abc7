"""The gauges: what they are of latents whose statistics are known, and what is said of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lcm.outputs.gauges import GAUGES, compare, concerns, key, said
from lcm.outputs.reference import read_reference, write_reference

MEANS, STDS, SPREAD = (0.5, -1.0, 0.25), (1.0, 0.5, 2.0), 0.3


def latents(scale: float = 1.0, shift: float = 0.0, spread: float = SPREAD) -> Tensor:
    """[4, 8, 3, 16, 16]: within a picture of a channel exactly its mean and standard deviation,
    pictures of a prompt moved by +-`spread` of that; all scaled, and moved by `shift` of it.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 1, 3, 16, 16, generator=generator).double()
    noise -= noise.mean(dim=(3, 4), keepdim=True)
    noise /= noise.var(dim=(3, 4), keepdim=True, unbiased=False).sqrt()
    signs = torch.tensor([1.0, -1.0] * 4).double()[None, :, None, None, None]
    mean, std = (torch.tensor(each).double()[:, None, None] for each in (MEANS, STDS))
    return (mean + std * (scale * (noise + spread * signs) + shift)).float()


def test_the_same_pictures_are_neutral() -> None:
    values = compare({4: latents()}, latents())
    for name, gauge in GAUGES.items():
        assert values[key(name, 4)] == pytest.approx(gauge.neutral, abs=1e-5), name
    for whose in ("teacher", "4_steps"):
        assert values[f"latent_mean_{whose}"] == pytest.approx(MEANS, abs=1e-4)
        assert values[f"latent_std_{whose}"] == pytest.approx(STDS, rel=1e-4)
    assert concerns(values) == []


@pytest.mark.parametrize(
    ("changed", "name", "value", "words"),
    [
        (latents(scale=1.5), "contrast", 1.5, "burnt"),
        (latents(scale=0.6), "contrast", 0.6, "blurred"),
        (latents(shift=0.8), "color_shift", 0.8, "colours"),
        (latents(shift=-0.8), "color_shift", 0.8, "colours"),
        (latents(spread=SPREAD * 2), "diversity", 4.0, "--target ema"),
        (latents(spread=SPREAD / 2), "diversity", 0.25, "too alike"),
    ],
)
def test_what_has_changed_is_told_by_its_gauge(
    changed: Tensor, name: str, value: float, words: str
) -> None:
    values = compare({1: latents(scale=9.0), 4: changed}, latents())
    assert values[key(name, 4)] == pytest.approx(value, rel=1e-3)
    assert any(each.startswith(f"{name} in 4 steps") and words in each for each in concerns(values))
    # what is wrong in fewer steps than the most may be for want of steps
    assert not any("in 1 steps" in each for each in concerns(values))
    assert f"{name} " in said(values) and f"{values[key(name, 4)]:.2f}" in said(values)


def test_gauges_say_what_they_measure_alone() -> None:
    """Contrast and diversity do not see colour, colour does not see contrast."""
    moved = compare({2: latents(shift=0.7)}, latents())
    assert moved["contrast_2_steps"] == moved["diversity_2_steps"] == 1.0
    assert compare({2: latents(spread=0.9)}, latents())["contrast_2_steps"] == 1.0
    assert compare({2: latents(scale=2.0)}, latents())["color_shift_2_steps"] < 1e-5


def test_what_has_no_number_is_null_in_json() -> None:
    """One seed has no variance; a teacher whose pictures are all alike is nothing to divide by."""
    one = compare({1: latents()[:, :1]}, latents()[:, :1])
    same = latents()[:, :1].expand_as(latents())
    broken = compare({1: latents() * math.nan}, latents())
    for values in (one, compare({1: latents()}, same), broken):
        assert json.loads(json.dumps(values, allow_nan=False))["diversity_1_steps"] is None
        assert "diversity -" in said(values)
    assert concerns(one) == []
    assert "not finite" in concerns(broken)[0]


def test_a_gauge_of_ones_own_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from lcm.outputs.gauges import CONTRAST

    monkeypatch.setattr(GAUGES, "_known", dict(GAUGES._known))
    GAUGES.add("mine", CONTRAST)
    assert compare({4: latents(scale=3.0)}, latents())["mine_4_steps"] == pytest.approx(3.0)


def test_the_teachers_latents_are_found_again_and_nothing_else(tmp_path: Path) -> None:
    path, kept = tmp_path / "validation" / "teacher.safetensors", latents()
    assert read_reference(path, "a") is None
    write_reference(path, "a", kept)
    found = read_reference(path, "a")
    assert found is not None and torch.equal(found, kept)
    assert read_reference(path, "b") is None
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    for damaged in (bytes(content), bytes(content[:-9]), b"", b"\0" * 99):
        path.write_bytes(damaged)
        assert read_reference(path, "a") is None
    path.unlink()
    path.mkdir()
    assert read_reference(path, "a") is None
