"""What the scripts beside this one share: each runs one real program, in a process of its own, and
prints its answers. Imports neither this toolkit nor diffusers, which a program may have its own of.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

SIGN = "answer: "
"""What a line that is an answer begins with; programs print much else."""
STEPS = (1, 2, 4, 8)
LARGEST = 1 << 20
"""Weights of a layer whose values are compared; names and counts are, of all."""


@dataclass(frozen=True)
class Asked:
    """A file that the toolkit made for a U-Net of a published size: its configuration, parameters
    and their shapes as diffusers has them, and the layers of the original model (inputs, outputs,
    kernel).
    """

    name: str
    file: Path
    prediction_type: str
    config: dict[str, Any]
    shapes: dict[str, list[int]]
    original: dict[str, list[int]]

    def tensors(self) -> dict[str, Tensor]:
        """The file as it is."""
        with safe_open(self.file, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def metadata(self) -> dict[str, str]:
        with safe_open(self.file, "pt") as file:
            return file.metadata()

    def meta_state(self) -> dict[str, Tensor]:
        """A U-Net's parameters without memory."""
        return {name: torch.empty(shape, device="meta") for name, shape in self.shapes.items()}


def work() -> tuple[Path, list[Asked]]:
    """The checkout, now first on the path and the folder that this process is in, and the files;
    both as the command line of the script has them.
    """
    checkout, folder = Path(sys.argv[1]), Path(sys.argv[2])
    del sys.argv[1:]
    sys.path.insert(0, str(checkout))
    os.chdir(checkout)
    listed = json.loads((folder / "files.json").read_text())
    return checkout, [Asked(**{**entry, "file": folder / entry["file"]}) for entry in listed]


def answer(asked: str, **facts: Any) -> None:
    """One answer, as a line."""
    print(f"\n{SIGN}{json.dumps({'asked': asked, **facts})}", flush=True)


def meant(tensors: dict[str, Tensor], stem: str) -> Tensor:
    """What a layer of the file adds to the weights: alpha / rank times up times down, [outputs,
    inputs, ...] in float32.
    """
    down, up = (tensors[f"{stem}.lora_{part}.weight"] for part in ("down", "up"))
    product = up.float().flatten(1) @ down.float().flatten(1)
    scale = float(tensors[f"{stem}.alpha"]) / len(down)
    return product.view(len(up), *down.shape[1:]) * scale


def answer_layers(asked: Asked, added: dict[str, Callable[[], Tensor]]) -> None:
    """How many layers were taken, which were not, and how far what is added to the weights of
    those up to `LARGEST` is from what the file means, at most. `added` maps names in the file to
    the difference of the weights, for the layers that the program takes.
    """
    tensors, end = asked.tensors(), ".lora_down.weight"
    stems = [name.removesuffix(end) for name in tensors if name.endswith(end)]
    missing = [stem for stem in stems if stem not in added]
    errors = []
    for stem in stems:
        sizes = [tensors[f"{stem}.lora_{part}.weight"].numel() for part in ("down", "up")]
        rank = len(tensors[f"{stem}.lora_down.weight"])
        if stem in added and sizes[0] * sizes[1] <= LARGEST * rank**2:
            delta = meant(tensors, stem)
            found = added[stem]().float().reshape(delta.shape)
            errors.append(float((found - delta).abs().max() / delta.abs().max()))
    answer(
        "layers",
        file=asked.name,
        layers=len(stems),
        taken=len(stems) - len(missing),
        missing=missing[:3],
        compared=len(errors),
        difference=max(errors, default=None),
        others=len(added) - (len(stems) - len(missing)),
    )


class Perfect(torch.nn.Module):
    """A U-Net that knows the picture: it predicts epsilon or v of it, whatever noise there is, and
    remembers the times that it was asked for.
    """

    def __init__(self, picture: Tensor, sigmas: Tensor, prediction_type: str) -> None:
        super().__init__()
        self.picture, self.sigmas, self.prediction_type = picture, sigmas, prediction_type
        self.times: list[float] = []
        self.dtype = torch.float32

    def predict(self, scaled: Tensor, time: Tensor) -> Tensor:
        """Of [B, 4, h, w] with variance 1 at one time."""
        self.times.append(round(float(time.flatten()[0]), 2))
        low = int(self.times[-1])
        high, part = min(low + 1, len(self.sigmas) - 1), self.times[-1] - low
        logs = self.sigmas.log()
        sigma = float(((1 - part) * logs[low] + part * logs[high]).exp())
        alpha = 1 / (1 + sigma**2) ** 0.5
        noise = (scaled - alpha * self.picture) / (sigma * alpha)
        if self.prediction_type == "v_prediction":
            return alpha * noise - sigma * alpha * self.picture
        return noise

    def answer(self, asked: str, drawn: Tensor, **facts: Any) -> None:
        """The times, and how far the drawn picture is from the one it knows, over what that is
        (rms).
        """
        error = float((drawn - self.picture).norm() / self.picture.norm())
        answer(asked, **facts, predicts=self.prediction_type, times=self.times, error=error)
        self.times = []
