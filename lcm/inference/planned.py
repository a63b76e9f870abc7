"""Which pictures are drawn, prompts x inference steps x seeds: a file for each, a grid for every
seed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lcm.system.image_grid import draw_labelled, fitting
from lcm.system.text import count, prompt_words

INDEX_NAME = "images.json"


@dataclass(frozen=True)
class Planned:
    """`row` counts the prompts from 1."""

    row: int
    prompt: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its file: no two in a plan are alike, whatever the prompts are; letters,
        digits and dashes, 100 at most.
        """
        plain = (
            unicodedata.normalize("NFKD", self.prompt).encode("ascii", "ignore").decode().lower()
        )
        words = re.sub(r"[^a-z0-9]+", "-", plain)[:40].strip("-")
        steps = count(self.steps, "step").replace(" ", "-")
        parts = [f"{self.row:04d}", words, steps, f"seed{self.seed}"]
        return "-".join(part for part in parts if part) + ".png"


def plan(prompts: Sequence[str], steps: Sequence[int], seeds: Sequence[int]) -> list[Planned]:
    """Pictures of the same number of steps stand together, in the order in which they are drawn."""
    rows = list(enumerate(prompts, 1))
    return [
        Planned(row, text, n, seed)
        for n in dict.fromkeys(steps)
        for row, text in rows
        for seed in dict.fromkeys(seeds)
    ]


def grid_name(seed: int) -> str:
    return f"grid-seed{seed}.png"


def check_names_free(folder: Path, pictures: Sequence[Planned]) -> None:
    """Raises ValueError when a file of this plan is there already."""
    names = [INDEX_NAME, *(grid_name(p.seed) for p in pictures), *(p.name for p in pictures)]
    for name in names:
        if (folder / name).exists():
            raise ValueError(
                f"output: {folder / name} exists and would be overwritten; pass another --output, "
                "or --overwrite"
            )


def draw_seed_grid(folder: Path, pictures: Sequence[Planned]) -> Image.Image:
    """The pictures of one seed, read from their files: rows are prompts, columns inference steps.

    One file is open at a time.
    """
    prompts = dict(sorted({p.row: p.prompt for p in pictures}.items()))
    steps = list(dict.fromkeys(p.steps for p in pictures))
    in_rows = sorted(pictures, key=lambda p: (p.row, steps.index(p.steps)))
    with Image.open(folder / pictures[0].name) as first:
        size = fitting(first.size, len(prompts), len(steps))
    return draw_labelled(
        map(read_image, (folder / picture.name for picture in in_rows)),
        size,
        list(map(prompt_words, prompts.values())),
        [count(n, "step") for n in steps],
        title=f"seed {pictures[0].seed}",
    )


def read_image(path: Path) -> Image.Image:
    """The decoded picture; its file is closed again."""
    with Image.open(path) as image:
        return image.copy()
