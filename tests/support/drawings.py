"""What `lcm generate` draws, and what stock diffusers draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lcm.cli.main import main

PROMPTS = ["a red star", "blue"]


def generate(base: Path, output: Path, *words: Any, prompts: list[str] = PROMPTS) -> int:
    return main(
        [
            "generate",
            "--base",
            str(base),
            "--output",
            str(output),
            "--prompt",
            *prompts,
            *map(str, words),
        ]
    )


def written(folder: Path) -> dict[tuple[int, int, int], Path]:
    """The pictures by (row, steps, seed), as the index has them."""
    entries = json.loads((folder / "images.json").read_text())["images"]
    return {
        (entry["row"], entry["steps"], entry["seed"]): folder / entry["file"] for entry in entries
    }


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def stock(pipe: Any, prompt: str, steps: int, seed: int, **options: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(seed)
    options = {"height": 16, "width": 16, **options}
    return np.asarray(
        pipe(prompt, num_inference_steps=steps, generator=generator, **options).images[0]
    ).astype(int)
