"""How far decoded pictures are from the teacher's, by the package lpips where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lcm.evaluation.features import to_pixels
from lcm.evaluation.metric import Metric, Statistic, of_rows
from lcm.evaluation.scene import Scene
from lcm.evaluation.weights import Weights, tensors_of
from lcm.system.console import silenced

FILE = "vgg16-397923af.pth"
BACKBONE = Weights("vgg16", (FILE,), url=f"https://download.pytorch.org/models/{FILE}")
"""The network of the pictures; what weighs its layers comes with the package."""


def load(path: Path) -> Any:
    """LPIPS over the VGG of torchvision in a file; by itself the package would download it. Raises
    ValueError for a file of something else.
    """
    import lpips as package

    tensors = tensors_of(path)
    with silenced():
        network = package.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    try:
        # slice2.5.weight is the features.5.weight of torchvision
        layers = {
            name: tensors[f"features.{name.partition('.')[2]}"] for name in network.net.state_dict()
        }
        network.net.load_state_dict(layers)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not the VGG-16 of torchvision; remove it, and download it again"
        ) from error
    return network


def lpips(scene: Scene) -> Statistic:
    """LPIPS (VGG) between decoded pictures, by the package of that name."""
    device = scene.features.device
    network = load(BACKBONE.find(scene.features.weights) / FILE).to(device)
    with torch.inference_mode():
        rows = []
        for index in range(len(scene.drawn)):
            places = [(index, seed) for seed in scene.drawn.seeds]
            mine, theirs = (
                to_pixels(each.images(places)).to(device).float() / 127.5 - 1
                for each in (scene.drawn, scene.teacher)
            )
            rows.append(float(network(mine, theirs).mean()))
    return of_rows(rows, scene.drawn.pictures)


LPIPS = Metric(
    "LPIPS",
    "paired",
    "lower",
    lpips,
    about="perceptual distance of the pictures",
    needs=(BACKBONE,),
    packages={"lpips": "lpips", "torchvision": "torchvision"},
    form=".3f",
)
