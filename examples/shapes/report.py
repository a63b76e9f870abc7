"""Measures what the example's README states about the tiny world, and draws its picture.

python -m examples.shapes.report --output_dir examples/shapes/results
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from examples.shapes.evaluate import TEACHER_STEPS, decode, generate, interval, load_pipe, score
from examples.shapes.judge import Judge
from examples.shapes.pictures import labelled_rows
from examples.shapes.render import CAPTIONS, render, sample_dataset
from examples.shapes.train_vae import to_pixels

HERE = Path(__file__).parent
TEACHERS = {"epsilon": HERE / "teacher", "v_prediction": HERE / "teacher_v"}
GUIDANCE_SCALES = (3.0, 5.0, 7.0)
HELD_OUT_SEED = 20_000  # no training used it
COLUMNS = 10


def share(correct: np.ndarray) -> dict[str, Any]:
    right = float(correct.all(axis=1).mean())
    return {"images": len(correct), "all_right": round(right, 4), "plus_minus": round(interval(right, len(correct)), 4)}


@torch.no_grad()
def round_trip(pipe: Any, images: np.ndarray) -> list[Image.Image]:
    """Renders [N, 64, 64, 3] uint8 through encoder, posterior sample and decoder."""
    torch.manual_seed(0)
    latents = torch.cat([pipe.vae.encode(part).latent_dist.sample() for part in to_pixels(images).split(96)])
    return decode(pipe, latents * pipe.vae.config.scaling_factor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=HERE / "results")
    parser.add_argument("--num_images", type=int, default=1536)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    judge, pipes = Judge.load(), {name: load_pipe(path) for name, path in TEACHERS.items()}
    scenes = sample_dataset(args.num_images, HELD_OUT_SEED)
    captions = [scene.caption for scene in scenes]
    renders = np.stack([render(scene) for scene in scenes])
    restored = round_trip(pipes["epsilon"], renders)
    results: dict[str, Any] = {
        "judge on held-out renders": share(judge.correct([Image.fromarray(image) for image in renders], captions)),
        "VAE round trip": share(judge.correct(restored, captions)),
    }
    for name, pipe in pipes.items():
        # the guidance is chosen on an eighth of the pictures, the figure is measured on all
        few = [score(pipe, judge, args.num_images // 8, TEACHER_STEPS, g)[0] for g in GUIDANCE_SCALES]
        best = max(few, key=lambda row: row["all_right"])["guidance_scale"]
        results[f"{name} teacher"] = score(pipe, judge, args.num_images, TEACHER_STEPS, best)[0]
        results[f"{name} teacher, search"] = few
    (args.output_dir / "world.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    shown = range(0, len(CAPTIONS), len(CAPTIONS) // COLUMNS + 1)
    rows = [("renders", [Image.fromarray(renders[i]) for i in shown]), ("VAE round trip", [restored[i] for i in shown])]
    for name, pipe in pipes.items():
        best = results[f"{name} teacher"]["guidance_scale"]
        latents = generate(pipe, [captions[i] for i in shown], list(shown), TEACHER_STEPS, best)
        rows.append((f"{name}\nteacher, {TEACHER_STEPS} steps", decode(pipe, latents)))
    labelled_rows(rows).save(args.output_dir / "world.png")


if __name__ == "__main__":
    main()
