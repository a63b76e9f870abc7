"""The styles of the community: how each draws a scene. Shape, colour and background stay what the
caption says.

python -m examples.shapes.community.styles --output out/styles.png
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from examples.shapes.pictures import labelled_rows, spread
from examples.shapes.render import (
    BACKGROUNDS,
    CAPTIONS,
    COLORS,
    SIZE,
    SUPERSAMPLE,
    Scene,
    edges,
    render,
    sample_dataset,
)
from examples.worlds import Style

WHITE, BLACK = np.full(3, 255.0), np.zeros(3)
DOWN = np.linspace(0, 1, SIZE)[:, None, None]
"""0 in the top row of a picture, 1 in the bottom row: [64, 1, 1]."""


def canvas() -> Image.Image:
    return Image.new("L", (SIZE * SUPERSAMPLE, SIZE * SUPERSAMPLE), 0)


def coverage(image: Image.Image) -> np.ndarray:
    """A supersampled mask -> the share of every pixel that it covers, [64, 64, 1]."""
    return np.asarray(image.reduce(SUPERSAMPLE), np.float64)[..., None] / 255


def figure(scene: Scene) -> Image.Image:
    """Supersampled mask of the figure."""
    mask = canvas()
    for line, fill in zip(edges(scene), (255, 0), strict=False):
        ImageDraw.Draw(mask).polygon(line, fill=fill)
    return mask


def stroke(scene: Scene, width: float) -> Image.Image:
    """Supersampled mask of a line along the figure's edges, `width` pixels to either side."""
    mask = canvas()
    for line in edges(scene):
        ImageDraw.Draw(mask).line(
            [*line, *line[:2]], fill=255, width=round(2 * width * SUPERSAMPLE), joint="curve"
        )
    return mask


def colors_of(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Figure and background, [3] each in 0..255."""
    return np.array(COLORS[scene.color], np.float64), np.array(
        BACKGROUNDS[scene.background], np.float64
    )


def mix(share: float | np.ndarray, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """`share` of the first and the rest of the second; a colour stands for a picture of it."""
    return share * above + (1 - share) * below


def picture(values: np.ndarray) -> np.ndarray:
    return np.broadcast_to(values, (SIZE, SIZE, 3)).round().clip(0, 255).astype(np.uint8)


def outlined(scene: Scene) -> np.ndarray:
    """A sticker: a black line around the figure and a white one around that."""
    color, background = colors_of(scene)
    paper = mix(coverage(stroke(scene, 4.0)), WHITE, background)
    return picture(
        mix(coverage(stroke(scene, 1.5)), BLACK, mix(coverage(figure(scene)), color, paper))
    )


def pastel(scene: Scene) -> np.ndarray:
    """Colours mixed with white: the figure's more at the top, the background's more at the
    bottom.
    """
    color, background = colors_of(scene)
    return picture(
        mix(
            coverage(figure(scene)),
            mix(0.7 - 0.5 * DOWN, WHITE, color),
            mix(0.1 + 0.5 * DOWN, WHITE, background),
        )
    )


def shadow(scene: Scene) -> np.ndarray:
    """A black shadow to the right and below, on a background light enough to show it."""
    color, background = colors_of(scene)
    fallen = dataclasses.replace(scene, x=scene.x + 6, y=scene.y + 6)
    ground = mix(coverage(figure(fallen)), BLACK, mix(0.3, WHITE, background))
    return picture(mix(coverage(figure(scene)), color, ground))


def neon(scene: Scene) -> np.ndarray:
    """A glow of the figure's colour on a darkened background."""
    color, background = colors_of(scene)
    mask = figure(scene)
    glow = (1.5 * coverage(mask.filter(ImageFilter.GaussianBlur(6 * SUPERSAMPLE)))).clip(max=1.0)
    return picture(mix(coverage(mask), color, mix(glow, color, 0.7 * background)))


STYLES: dict[str, Style] = {
    "plain": render,
    "outlined": outlined,
    "pastel": pastel,
    "shadow": shadow,
    "neon": neon,
}
"""The base teacher's own style first."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("out/styles.png"), help="the picture to write"
    )
    args = parser.parse_args()
    scenes = sample_dataset(len(CAPTIONS), 0)
    shown = [scenes[i] for i in spread(len(CAPTIONS))]
    rows = [
        (name, [Image.fromarray(draw(scene)) for scene in shown]) for name, draw in STYLES.items()
    ]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    labelled_rows(rows).save(args.output)


if __name__ == "__main__":
    main()
