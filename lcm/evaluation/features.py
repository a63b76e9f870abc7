"""Pictures and prompts as vectors of networks that others trained, kept on the disk: a picture is
looked at once by each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lcm.data.precomputed.identity import key_of
from lcm.evaluation.drawings import Drawings
from lcm.evaluation.weights import Weights, identity
from lcm.outputs.reference import read_reference, write_reference
from lcm.system.registry import Table

FOLDER = "features"
"""Where they are, inside --output."""
BATCH = 32
"""Pictures that a network looks at together."""


class Net(Protocol):
    """A network in eval mode on its device."""

    def images(self, pictures: list[Image.Image]) -> Tensor:
        """RGB pictures of any size -> [B, D]."""


@dataclass(frozen=True)
class NetKind:
    """A network by its weights: `load` gets the folders that have them, in order, and the device.
    `revision` changes where the same weights give other numbers.
    """

    load: Callable[[Sequence[Path], torch.device], Any]
    needs: tuple[Weights, ...] = ()
    revision: int = 1

    def found(self, weights: Path | None, device: torch.device) -> Any:
        """The network, from the folder `weights` or wherever else its files are. Raises
        MissingError where they are not here, ValueError where they cannot be read.
        """
        return self.load([each.find(weights) for each in self.needs], device)


NETS: Table[NetKind] = Table(
    "feature net",
    {
        "inception": "lcm.evaluation.nets.inception:INCEPTION",
        "dinov2": "lcm.evaluation.nets.dinov2:DINOV2",
        "clip": "lcm.evaluation.nets.clip:CLIP",
        "pick_score": "lcm.evaluation.nets.clip:PICK_SCORE",
        "hpsv2": "lcm.evaluation.nets.hpsv2:HPSV2",
    },
)
"""What looks at pictures; `NETS.add` takes others."""


class Features:
    """Vectors of pictures, from the disk where they are, else from a network, of which one is in
    memory at a time. `weights` is the folder of --metric_weights.
    """

    def __init__(self, folder: Path, weights: Path | None, device: torch.device) -> None:
        self.folder, self.weights, self.device = folder, weights, device
        self._loaded: tuple[str, Any] | None = None

    def net(self, name: str) -> Any:
        """The network of this name. Raises MissingError where its weights are not here, ValueError
        where they cannot be read.
        """
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # which makes room for the next
            self._loaded = (name, NETS[name].found(self.weights, self.device))
        return self._loaded[1]

    def of_drawings(self, name: str, drawings: Drawings) -> Tensor:
        """[N, S, D] of all pictures."""
        path = self.folder / f"{name}-{drawings.subject}-{drawings.steps}steps.safetensors"
        places, seeds = drawings.places(), len(drawings.seeds)

        def load(start: int) -> list[Image.Image]:
            return drawings.images(places[start : start + BATCH])

        found = self.kept(name, path, drawings.identity, len(places), load)
        return found.reshape(len(drawings), seeds, -1)

    def of_files(self, name: str, files: Sequence[Path]) -> Tensor:
        """[M, D] of the pictures in files."""
        facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]

        def load(start: int) -> list[Image.Image]:
            return [opened(file) for file in files[start : start + BATCH]]

        path = self.folder / f"{name}-reference.safetensors"
        return self.kept(name, path, key_of(facts), len(files), load)

    def kept(
        self,
        name: str,
        path: Path,
        pictures: str,
        count: int,
        load: Callable[[int], list[Image.Image]],
    ) -> Tensor:
        """[count, D] float32 of what `load` gives in batches; `pictures` stands for them."""
        kind = NETS[name]
        key = key_of(name, pictures, kind.revision, identity(kind.needs, self.weights))
        if (found := read_reference(path, key)) is not None:
            return found
        net, parts = self.net(name), []
        with torch.inference_mode():
            for start in range(0, count, BATCH):
                parts.append(net.images(load(start)).float().cpu())
        made = torch.cat(parts).clone()
        write_reference(path, key, made)
        return made


def opened(file: Path) -> Image.Image:
    """The picture in a file. Raises ValueError naming it."""
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"reference_dir: {file} is no picture that can be read ({error}); take it out"
        ) from error


def to_pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size -> [B, 3, H, W] uint8."""
    import numpy as np

    return torch.stack(
        [torch.from_numpy(np.array(picture, dtype=np.uint8)) for picture in pictures]
    ).permute(0, 3, 1, 2)


def squared(picture: Image.Image, side: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[3, side, side]: the middle of the picture, its shorter side resized bicubically, then less
    `mean` over `std` by channels, as CLIP and DINOv2 were trained.
    """
    wide, high = (shortest(length, picture.size, side) for length in picture.size)
    left, top = (wide - side) // 2, (high - side) // 2
    resized = picture.resize((wide, high), Image.Resampling.BICUBIC)
    return normed(resized.crop((left, top, left + side, top + side)), mean, std)


def padded(picture: Image.Image, side: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[3, side, side]: all of the picture, its longer side resized bicubically, with black beside
    it, as HPS scores pictures; a square one is as `squared` has it.
    """
    wide, high = (longest(length, picture.size, side) for length in picture.size)
    made = Image.new("RGB", (side, side))
    resized = picture.resize((wide, high), Image.Resampling.BICUBIC)
    made.paste(resized, ((side - wide) // 2, (side - high) // 2))
    return normed(made, mean, std)


def shortest(length: int, sides: Sequence[int], side: int) -> int:
    """A length once the shorter of both sides is `side`, rounded down as transformers does."""
    return side * length // min(sides)


def longest(length: int, sides: Sequence[int], side: int) -> int:
    """A length once the longer of both sides is `side`, rounded as open_clip does."""
    return max(1, round(length * side / max(sides)))


def normed(picture: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[3, H, W]: less `mean` over `std` by channels."""
    pixels = to_pixels([picture])[0] / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def shaped(
    pictures: Tensor, side: int, mean: Sequence[float], std: Sequence[float], *, whole: bool
) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] -> [B, 3, side, side], with gradients: as `padded` has the
    `whole` of them, or `squared` their middle, which round to 8 bits.
    """
    sides, fit = pictures.shape[-2:], longest if whole else shortest
    size = [fit(length, sides, side) for length in sides]
    made = F.interpolate(pictures, size, mode="bicubic", antialias=True).clamp(0.0, 1.0)
    # below 0 it cuts; rounded to 0 both ways, as the two above do
    before = [int((side - length) / 2) for length in size]
    after = [side - length - first for length, first in zip(size, before, strict=True)]
    made = F.pad(made, (before[1], after[1], before[0], after[0]))
    centre, spread = (made.new_tensor(values)[:, None, None] for values in (mean, std))
    return (made - centre) / spread
