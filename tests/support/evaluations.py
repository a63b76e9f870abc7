"""Pictures as `lcm evaluate` keeps them, and tiny networks for those that look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from examples.shapes.tokenizer import build_tokenizer
from lcm.cli.main import main
from lcm.evaluation.drawings import Drawings
from lcm.evaluation.features import Features
from lcm.evaluation.scene import Scene

CPU = torch.device("cpu")


def evaluate(base: Path, output: Path, *words: Any) -> int:
    return main(["evaluate", "--base", str(base), "--output", str(output), *map(str, words)])


def drawn(folder: Path, latents: Tensor, subject: str = "mine", steps: int = 4) -> Drawings:
    """Pictures whose latents are [N, S, C, h, w], each of one grey."""
    count, seeds = latents.shape[:2]
    made = Drawings(
        subject=subject,
        steps=steps,
        prompts=tuple(f"prompt {i}" for i in range(count)),
        rows=tuple(range(count)),
        seeds=tuple(range(seeds)),
        folder=folder / subject / str(steps),
        key=f"{subject} {steps}",
    )
    for index, seed in made.places():
        grey = 20 * index + seed
        picture = Image.new("RGB", (8, 8), (grey % 256, 100, 200))
        made.write(index, seed, picture, latents[index, seed])
    return made


def scene(
    folder: Path, mine: Tensor, theirs: Tensor, curve: dict[int, Tensor] | None = None
) -> Scene:
    """A student's latents and the teacher's, both [N, S, C, h, w]; those of the curve have one
    seed.
    """
    return Scene(
        drawn(folder, mine),
        drawn(folder, theirs, "teacher", 40),
        {n: drawn(folder, latents, "teacher", n) for n, latents in (curve or {}).items()},
        Features(folder / "features", None, CPU),
    )


def write_words(folder: Path) -> int:
    """vocab.json and merges.txt of a tiny vocabulary; returns its size."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    getattr(tokenizer, "backend_tokenizer").model.save(str(folder))  # noqa: B009 - not of every class
    return len(tokenizer)


def write_clip(folder: Path, seed: int = 0) -> CLIPModel:
    """A random CLIP with its words, in a folder as the hub has them."""
    words = write_words(folder)
    tower = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    torch.manual_seed(seed)
    model = CLIPModel(
        CLIPConfig(
            projection_dim=16,
            text_config={
                **{**tower, "num_attention_heads": 2, "vocab_size": words},
                **{"bos_token_id": words - 2, "eos_token_id": words - 1},
            },
            vision_config={**tower, "num_attention_heads": 2, "image_size": 16, "patch_size": 8},
        )
    )
    model.eval().save_pretrained(folder)
    return model


def write_dino(folder: Path) -> Dinov2Model:
    """A random DINOv2 of patches so large that there are few."""
    torch.manual_seed(0)
    model = Dinov2Model(
        Dinov2Config(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=224,
            patch_size=56,
        )
    )
    model.eval().save_pretrained(folder)
    return model
