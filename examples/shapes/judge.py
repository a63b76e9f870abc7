"""The judge: a small CNN that names the attributes of a 64x64 picture, each with a head of its own.

    python -m examples.shapes.judge --output_dir examples/shapes/judge

It never sees a generated picture in training. `Judge.load()` reads the bundled weights.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from examples.shapes.render import WORLD
from examples.worlds import World, add_world_flag, load_world

HEADS, CAPTION_TO_LABELS = WORLD.heads, WORLD.labels


class Judge(nn.Module):
    """Pixels [B, 3, 64, 64] in [-1, 1] -> 64 features -> one row of logits per attribute."""

    def __init__(self, world: World = WORLD) -> None:
        super().__init__()
        self.world = world
        channels = (3, 16, 32, 64, 64)
        self.trunk = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 3, stride=2, padding=1),
                    nn.GroupNorm(4, b),
                    nn.SiLU(),
                    nn.Conv2d(b, b, 3, padding=1),
                    nn.SiLU(),
                )
                for a, b in itertools.pairwise(channels)
            ),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 64),
            nn.SiLU(),
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(64, len(values)) for name, values in world.heads.items()}
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        features = self.trunk(pixels)
        return {name: head(features) for name, head in self.heads.items()}

    @classmethod
    def load(cls, path: Path | None = None, world: World = WORLD) -> Self:
        """The judge of a file, or the one that comes with the world."""
        judge, weights = cls(world), load_file(path or world.judge)
        judge.load_state_dict({name: value.float() for name, value in weights.items()})
        return judge.eval()

    @torch.no_grad()
    def predict(self, images: list[Image.Image]) -> np.ndarray:
        """What every head sees: int64 [B, heads]."""
        pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
        pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return torch.cat(
            [
                torch.stack([h.argmax(1) for h in self(part).values()], 1)
                for part in pixels.split(256)
            ]
        ).numpy()

    def correct(self, images: list[Image.Image], captions: list[str]) -> np.ndarray:
        """Which attributes of each picture agree with its caption: bool [B, 3] for (shape, color,
        background), or the attributes of another world.
        """
        return self.predict(images)[:, : len(self.world.heads)] == np.array(
            [self.world.labels[text] for text in captions]
        )

    def accuracy(self, images: list[Image.Image], captions: list[str]) -> float:
        """Share of pictures with all attributes right."""
        return float(self.correct(images, captions).all(axis=1).mean())


def blur_and_noise(pixels: Tensor) -> Tensor:
    """Mild damage, so that the judge does not hang on anti-aliasing that no VAE reproduces."""
    size = 64 if torch.rand(()) < 0.5 else int(torch.randint(32, 64, ()))
    pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    pixels = F.interpolate(pixels, size=64, mode="bilinear")
    return pixels + 0.1 * torch.rand(()) * torch.randn_like(pixels)


def train(judge: Judge, images: Tensor, labels: Tensor, num_steps: int) -> Judge:
    """Pictures [N, 3, 64, 64] uint8 with the labels of every head, int64 [N, heads]."""
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=num_steps)
    for step in range(num_steps):
        rows = torch.randint(len(images), (64,))
        logits = judge(blur_and_noise(images[rows].float() / 127.5 - 1.0))
        loss = torch.stack(
            [F.cross_entropy(value, labels[rows, i]) for i, value in enumerate(logits.values())]
        ).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % 200 == 0:
            print(f"step {step + 1}: cross entropy {loss.item():.4f}", flush=True)
    return judge.eval()


def save(judge: Judge, path: Path) -> None:
    """Writes the weights in fp16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in judge.state_dict().items()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    add_world_flag(parser)
    args = parser.parse_args()
    world, path = load_world(args.world), args.output_dir / "judge.safetensors"
    torch.manual_seed(args.seed)
    judge = Judge(world)
    scenes = world.sample_dataset(192 * 80, args.seed)
    images = np.stack([world.render(scene) for scene in scenes])
    labels = torch.tensor([world.labels[scene.caption] for scene in scenes])
    save(
        train(judge, torch.from_numpy(images).permute(0, 3, 1, 2), labels, args.num_steps),
        path,
    )
    scenes = world.sample_dataset(3840, args.seed + 1)
    pictures = [Image.fromarray(world.render(scene)) for scene in scenes]
    judge = Judge.load(path, world)
    print(
        "held-out renders, all attributes right: "
        f"{judge.accuracy(pictures, [s.caption for s in scenes]):.4%} of {len(scenes)}"
    )


if __name__ == "__main__":
    main()
