"""Networks that look at pictures: how these are put before them, those that torch-fidelity ships,
and one of a user's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.methods.metrics import frechet_distance
from lcm.evaluation.features import NETS, NetKind, padded, squared
from lcm.evaluation.metrics.frechet import frechet
from lcm.evaluation.nets.inception import FILE, INCEPTION
from lcm.evaluation.sets import metric
from lcm.evaluation.weights import is_installed
from tests.support.evaluations import CPU, scene

PLAIN = ([0.0] * 3, [1.0] * 3)
fidelity = pytest.mark.skipif(
    not is_installed("torch_fidelity"), reason="torch-fidelity, of the extra evaluate, is not here"
)


def test_a_picture_is_cut_for_clip_and_kept_whole_for_hps() -> None:
    """Of a wide one, red on the left and on the right, white in the middle."""
    red, white = [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    wide = Image.new("RGB", (80, 40), (255, 0, 0))
    wide.paste((255, 255, 255), (20, 0, 60, 40))
    cut, whole = (fit(wide, 40, *PLAIN) for fit in (squared, padded))
    assert cut.shape == whole.shape == (3, 40, 40)
    assert cut.amin() == 1.0  # the middle alone
    assert whole[:, 20, 2].tolist() == red and whole[:, 20, 20].tolist() == white
    assert whole[:, :10].amax() == whole[:, 30:].amax() == 0.0  # black above and below
    square = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    torch.testing.assert_close(padded(square, 40, *PLAIN), squared(square, 40, *PLAIN))
    for shape in ((1, 900), (900, 1), (3, 3)):
        assert padded(Image.new("RGB", shape), 16, *PLAIN).shape == (3, 16, 16)


class Colors:
    """Means of channels."""

    def images(self, pictures: list[Image.Image]) -> Tensor:
        return torch.tensor(np.array([np.asarray(each).mean(axis=(0, 1)) for each in pictures]))


def load_colors(places: Sequence[Path], device: torch.device) -> Colors:
    return Colors()


@fidelity
def test_a_network_of_ones_own_makes_a_distance_of_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NETS, "_known", dict(NETS._known))
    NETS.add("colors", NetKind(load_colors))
    mine = metric("colors", "FD (colours)", frechet, "of mean colours", "lower", ".1f")
    latents = torch.zeros(6, 2, 4, 8, 8)
    found = mine.measure(scene(tmp_path, latents, latents))
    # prompt i in seed s is (20 i + s, 100, 200), of the student as of the teacher
    first, second = (np.array([[20.0 * i + s, 100, 200] for i in range(6)]) for s in (0, 1))
    assert found is not None
    assert found.value == pytest.approx(frechet_distance(first, second), abs=1e-6)
    assert found.floor == pytest.approx(found.value, abs=1e-6)
    assert (found.prompts, found.pictures) == (6, 6)


@fidelity
def test_inception_is_that_of_torch_fidelity_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random one, for the true one is 90 MB elsewhere."""
    from lcm.libraries.torch_fidelity import library

    kind: Any = library("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    torch.manual_seed(0)
    empty = tmp_path / "empty.pth"
    torch.save({}, empty)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "load_state_dict", lambda self, state: None)
        theirs = kind("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(empty))
    torch.save(theirs.state_dict(), tmp_path / FILE)
    pictures = [Image.new("RGB", (24, 24), color) for color in ("red", "blue")]
    pictures.append(Image.new("RGB", (16, 32)))
    with torch.inference_mode():
        found = INCEPTION.load([tmp_path], CPU).images(pictures)
        red = torch.tensor([255, 0, 0], dtype=torch.uint8)[None, :, None, None]
        (first,) = theirs(red.expand(1, 3, 24, 24))
    assert found.shape == (3, 2048)
    torch.testing.assert_close(found[:1], first, rtol=1e-3, atol=1e-4)
    torch.save({"a": torch.ones(1)}, tmp_path / FILE)
    with pytest.raises(ValueError, match="is not the Inception of torch-fidelity"):
        INCEPTION.load([tmp_path], CPU)
