"""Distances of sets, from pictures on the disk to the number, are those that torchmetrics makes of
the same pictures and the same network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from examples.shapes.judge import Judge
from examples.shapes.render import WORLD
from lcm.evaluation.drawings import Drawings
from lcm.evaluation.features import NETS, Features, NetKind
from lcm.evaluation.metrics.frechet import frechet
from lcm.evaluation.metrics.kid import kernel
from lcm.evaluation.scene import Scene
from lcm.evaluation.sets import Distance, metric
from lcm.evaluation.weights import is_installed
from lcm.libraries.torch_fidelity import library
from tests.support.evaluations import CPU

PROMPTS, REAL = 40, 60
if not is_installed("torch_fidelity"):
    pytest.skip("torch-fidelity, of the extra evaluate, is not here", allow_module_level=True)
library("feature_extractor_inceptionv3")  # which torchmetrics imports, with or without torchvision
fid = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics, of dev, is not here")
kid = pytest.importorskip("torchmetrics.image.kid")


class Looks(nn.Module):
    """Pictures [B, 3, 64, 64] uint8 -> features [B, num_features] of a network, as float64; `kind`
    is its name in `NETS`.
    """

    def __init__(self, kind: str, network: nn.Module, num_features: int) -> None:
        super().__init__()
        self.kind, self.network, self.num_features = kind, network, num_features

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels.float() / 127.5 - 1.0).double()

    def images(self, pictures: list[Image.Image]) -> Tensor:
        """As the networks of `lcm evaluate` are asked."""
        return self(
            torch.stack([torch.from_numpy(np.array(each)) for each in pictures]).movedim(3, 1)
        )


def make_looks(kind: str) -> Looks:
    """The judge of the shapes; or a random network with more features than there are pictures."""
    if kind == "judge":
        return Looks(kind, Judge.load().trunk, 64)
    torch.manual_seed(0)
    parts = nn.AvgPool2d(8), nn.Flatten(), nn.Linear(192, 200), nn.Tanh()
    return Looks(kind, nn.Sequential(*parts), 200)


def rendered(count: int, seed: int) -> Tensor:
    """[count, 3, 64, 64] uint8."""
    pictures = [WORLD.render(scene) for scene in WORLD.sample_dataset(count, seed)]
    return torch.from_numpy(np.stack(pictures)).movedim(3, 1)


def kept(folder: Path, subject: str, pixels: Tensor) -> Drawings:
    """Pictures [N, S, 3, 64, 64] uint8 as drawings."""
    prompts = tuple(map(str, range(len(pixels))))
    rows, seeds = tuple(range(len(pixels))), tuple(range(pixels.shape[1]))
    made = Drawings(subject, 4, prompts, rows, seeds, folder / subject, subject)
    for index, seed in made.places():
        picture = Image.fromarray(pixels[index, seed].movedim(0, 2).numpy())
        made.write(index, seed, picture, torch.zeros(1))
    return made


@pytest.fixture(scope="module")
def pixels() -> dict[str, Tensor]:
    """Of the teacher, of a student whose pictures are darker, and real ones."""
    teacher, student = (
        rendered(2 * PROMPTS, seed).unflatten(0, (2, PROMPTS)).transpose(0, 1) for seed in (0, 1)
    )
    return {
        "teacher": teacher,
        "mine": (student.float() * 0.7).byte(),
        "real": rendered(REAL, seed=2),
    }


@pytest.fixture(scope="module")
def drawn(pixels: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The same, as `lcm evaluate` has them."""
    folder = tmp_path_factory.mktemp("agreement")
    files: list[Path] = []
    for number, picture in enumerate(pixels["real"]):
        files.append(folder / f"{number}.png")
        Image.fromarray(picture.movedim(0, 2).numpy()).save(files[-1])
    mine, teacher = (kept(folder, name, pixels[name]) for name in ("mine", "teacher"))
    return Scene(mine, teacher, {}, Features(folder / "features", None, CPU), real=files)


@pytest.fixture(params=["judge", "random"])
def looks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Looks:
    """A network that `lcm evaluate` knows by its kind."""
    made = make_looks(request.param)

    def load(places: Sequence[Path], device: torch.device) -> Looks:
        return made

    monkeypatch.setattr(NETS, "_known", dict(NETS._known))
    NETS.add(made.kind, NetKind(load))
    return made


def measured(scene: Scene, looks: Looks, distance: Distance) -> Any:
    return metric(looks.kind, "", distance, "", "lower", ".3f").measure(scene)


def theirs(kind: Any, looks: Looks, mine: Tensor, reference: Tensor, **options: Any) -> Any:
    """What torchmetrics makes of pictures, asked as its documentation says."""
    other = kind(feature=looks, **options)
    other.update(reference, real=True)
    other.update(mine, real=False)
    return other.compute()


def test_the_frechet_distances_agree(drawn: Scene, pixels: dict[str, Tensor], looks: Looks) -> None:
    mine, teacher, real = pixels["mine"], pixels["teacher"], pixels["real"]

    def expected(*pictures: Tensor) -> Any:
        return pytest.approx(
            float(theirs(fid.FrechetInceptionDistance, looks, *pictures)), rel=1e-3
        )

    to_teacher = measured(replace(drawn, real=None), looks, frechet)
    assert to_teacher.value == expected(mine[:, 0], teacher[:, 1])
    assert to_teacher.floor == expected(teacher[:, 0], teacher[:, 1]) != to_teacher.value
    to_real = measured(drawn, looks, frechet)
    assert to_real.value == expected(mine.flatten(0, 1), real)
    assert to_real.floor == expected(teacher.flatten(0, 1), real)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_the_kernel_distances_agree(drawn: Scene, pixels: dict[str, Tensor], looks: Looks) -> None:
    """To the digit where a subset is all there is, else within the noise of its subsets."""
    mine, teacher, real = pixels["mine"], pixels["teacher"], pixels["real"]

    def asked(*pictures: Tensor, size: int, subsets: int) -> tuple[float, float]:
        options = {"subset_size": size, "subsets": subsets}
        mean, deviation = theirs(kid.KernelInceptionDistance, looks, *pictures, **options)
        return float(mean), float(deviation)

    to_teacher = measured(replace(drawn, real=None), looks, kernel)
    mean, _ = asked(mine[:, 0], teacher[:, 1], size=PROMPTS, subsets=1)
    assert to_teacher.value == pytest.approx(mean, rel=1e-4)
    torch.manual_seed(0)
    to_real = measured(drawn, looks, kernel)
    mean, deviation = asked(mine.flatten(0, 1), real, size=REAL, subsets=100)
    assert 0 < deviation < mean  # of 100 subsets, so that two means are deviation / 7 apart
    assert abs(to_real.value - mean) < deviation
