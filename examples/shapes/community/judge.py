"""The community's judge: the attributes of the plain judge, and the style.

    python -m examples.shapes.community.judge --output_dir examples/shapes/community/judge

It is trained on renders, with the damage that the plain judge is trained with, and never sees a
decoded or generated picture.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import nn

from examples.shapes.community.styles import STYLES
from examples.shapes.judge import CAPTION_TO_LABELS, HEADS, Judge, save, train
from examples.shapes.render import CAPTIONS, WORLD, sample_dataset
from examples.shapes.report import round_trip
from examples.worlds import World

WEIGHTS = Path(__file__).parent / "judge" / "judge.safetensors"


class StyleJudge(Judge):
    """A fourth row of logits names one of `STYLES`."""

    def __init__(self, world: World = WORLD) -> None:
        super().__init__(world)
        self.heads["style"] = nn.Linear(64, len(STYLES))

    @classmethod
    def load(cls, path: Path | None = None, world: World = WORLD) -> Self:
        return super().load(path or WEIGHTS, world)

    def agrees(self, images: list[Image.Image], captions: list[str], style: str) -> np.ndarray:
        """Bool [B, 4] for (shape, color, background, style)."""
        asked = [(*CAPTION_TO_LABELS[text], list(STYLES).index(style)) for text in captions]
        return self.predict(images) == np.array(asked)


def share_by_style(
    judge: StyleJudge, num_images: int, seed: int, pipe: Any = None
) -> list[dict[str, Any]]:
    """On renders of every style, or on what the VAE of `pipe` makes of them: the shares with all
    attributes and the style right.
    """
    scenes, rows = sample_dataset(num_images, seed), []
    for style, draw in STYLES.items():
        renders = np.stack([draw(scene) for scene in scenes])
        images = (
            round_trip(pipe, renders) if pipe else [Image.fromarray(picture) for picture in renders]
        )
        agrees = judge.agrees(images, [scene.caption for scene in scenes], style)
        shares = dict(zip([*HEADS, "in_style"], agrees.mean(axis=0).round(4).tolist(), strict=True))
        right = round(float(agrees[:, :3].all(axis=1).mean()), 4)
        rows.append(
            {
                "style": style,
                "decoded": bool(pipe),
                "images": num_images,
                "all_right": right,
                **shares,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_images", type=int, default=len(CAPTIONS) * 40, help="of every style")
    parser.add_argument("--num_steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    scenes = sample_dataset(args.num_images, args.seed)
    images = torch.from_numpy(
        np.stack([draw(scene) for draw in STYLES.values() for scene in scenes])
    ).permute(0, 3, 1, 2)
    labels = [
        (*CAPTION_TO_LABELS[scene.caption], style)
        for style in range(len(STYLES))
        for scene in scenes
    ]
    save(
        train(StyleJudge(), images, torch.tensor(labels), args.num_steps),
        args.output_dir / WEIGHTS.name,
    )
    judge = StyleJudge.load(args.output_dir / WEIGHTS.name)
    print(json.dumps(share_by_style(judge, len(CAPTIONS) * 8, args.seed + 1), indent=1))


if __name__ == "__main__":
    main()
