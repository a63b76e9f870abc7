"""A picture world: captions that name attributes, a renderer that leaves other quantities free, and
the folder that its teachers and its judge lie in.

The commands of `examples.shapes` work for every world of `NAMES`: `--world patterns`.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("shapes", "patterns")
"""Folders of examples/ whose `render` module has a `WORLD`."""
Attributes = tuple[str, ...]
Style = Callable[[Any], np.ndarray]
"""A scene, which has a `caption` -> its picture, [64, 64, 3] uint8."""


@dataclass(frozen=True)
class World:
    """What distinguishes one picture world from another.

    `heads` are the attributes that a caption names, with their values; `caption` makes the sentence
    for one value of each, `sample_scene` draws the free quantities, `render` the picture.
    """

    folder: Path
    heads: dict[str, tuple[str, ...]]
    caption: Callable[[Attributes], str]
    sample_scene: Callable[[Attributes, np.random.Generator], Any]
    render: Style

    @cached_property
    def attributes(self) -> tuple[Attributes, ...]:
        return tuple(itertools.product(*self.heads.values()))

    @cached_property
    def captions(self) -> tuple[str, ...]:
        return tuple(self.caption(attributes) for attributes in self.attributes)

    @cached_property
    def labels(self) -> dict[str, tuple[int, ...]]:
        """What the judge's heads must say of every caption."""
        return {
            text: tuple(
                names.index(value)
                for names, value in zip(self.heads.values(), attributes, strict=True)
            )
            for text, attributes in zip(self.captions, self.attributes, strict=True)
        }

    @property
    def judge(self) -> Path:
        """The weights of its judge."""
        return self.folder / "judge" / "judge.safetensors"

    def sample_dataset(self, num_images: int, seed: int) -> list[Any]:
        """`num_images` scenes that go through the captions in turn, so every caption is equally
        frequent.
        """
        rng, number = np.random.default_rng(seed), len(self.attributes)
        return [self.sample_scene(self.attributes[i % number], rng) for i in range(num_images)]

    def write_dataset(
        self, output_dir: Path, num_images: int, seed: int = 0, styles: Sequence[Style] = ()
    ) -> None:
        """Writes PNG files and `metadata.jsonl` (`file_name`, `text`), the image-folder layout of
        `datasets`.

        Every style draws all captions in its turn; without one the renderer does.
        """
        styles = styles or (self.render,)
        output_dir.mkdir(parents=True, exist_ok=True)
        with (output_dir / "metadata.jsonl").open("w", encoding="utf-8", newline="\n") as metadata:
            for i, scene in enumerate(self.sample_dataset(num_images, seed)):
                file_name = f"{i:05d}.png"
                style = styles[i // len(self.captions) % len(styles)]
                Image.fromarray(style(scene)).save(output_dir / file_name)
                metadata.write(json.dumps({"file_name": file_name, "text": scene.caption}) + "\n")


def load_world(name: str) -> World:
    """The world of a folder in examples/."""
    world: World = importlib.import_module(f"examples.{name}.render").WORLD
    return world


def add_world_flag(parser: argparse.ArgumentParser) -> None:
    """`--world`; `load_world(args.world)` is what it names."""
    parser.add_argument("--world", choices=NAMES, default=NAMES[0], help="picture world")
