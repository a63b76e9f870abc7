"""Measures what an example's README states about its picture world, and draws its picture.

python -m examples.shapes.report
python -m examples.shapes.report --world patterns
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from examples.shapes.evaluate import (
    TEACHER_STEPS,
    decode,
    generate,
    interval,
    judged,
    load_pipe,
    score,
    teacher_endpoints,
)
from examples.shapes.judge import Judge
from examples.shapes.pictures import labelled_rows, spread
from examples.shapes.train_vae import to_pixels
from examples.worlds import World, add_world_flag, load_world

FOLDERS = {"epsilon": "teacher", "v_prediction": "teacher_v"}
"""Teachers by what they predict, in the folder of a world, which may lack some."""
GUIDANCE_SCALES = (3.0, 5.0)
HELD_OUT_SEED = 20_000  # no training used it


def teachers(world: World) -> dict[str, Path]:
    """The teachers that a world has."""
    folders = {name: world.folder / folder for name, folder in FOLDERS.items()}
    return {name: folder for name, folder in folders.items() if folder.is_dir()}


def share(correct: np.ndarray) -> dict[str, Any]:
    right = float(correct.all(axis=1).mean())
    return {
        "images": len(correct),
        "all_right": round(right, 4),
        "plus_minus": round(interval(right, len(correct)), 4),
    }


@torch.no_grad()
def round_trip(pipe: Any, images: np.ndarray) -> list[Image.Image]:
    """Renders [N, 64, 64, 3] uint8 through encoder, posterior sample and decoder."""
    torch.manual_seed(0)
    latents = torch.cat(
        [pipe.vae.encode(part).latent_dist.sample() for part in to_pixels(images).split(96)]
    )
    return decode(pipe, latents * pipe.vae.config.scaling_factor)


def measure_judge_and_vae(judge: Judge, num_images: int) -> dict[str, Any]:
    world = judge.world
    scenes = world.sample_dataset(num_images, HELD_OUT_SEED)
    captions = [scene.caption for scene in scenes]
    renders = np.stack([world.render(scene) for scene in scenes])
    restored = round_trip(load_pipe(next(iter(teachers(world).values()))), renders)
    return {
        "judge on held-out renders": share(
            judge.correct([Image.fromarray(image) for image in renders], captions)
        ),
        "VAE round trip": share(judge.correct(restored, captions)),
    }


def measure_teacher(name: str, judge: Judge, num_images: int) -> dict[str, Any]:
    """At its best guidance, which is chosen on an eighth of the pictures."""
    folder = teachers(judge.world)[name]
    pipe = load_pipe(folder)
    few = [score(pipe, judge, num_images // 8, TEACHER_STEPS, g)[0] for g in GUIDANCE_SCALES]
    best = max(few, key=lambda row: row["all_right"])["guidance_scale"]
    endpoints = teacher_endpoints(folder, num_images, best, world=judge.world)
    return {
        f"{name} teacher": judged(pipe, judge, endpoints, TEACHER_STEPS, best),
        f"{name} teacher, search": few,
    }


def draw(results: dict[str, Any], path: Path, world: World) -> None:
    captions, folders = world.captions, teachers(world)
    scenes, shown = world.sample_dataset(len(captions), HELD_OUT_SEED), spread(len(captions))
    renders = np.stack([world.render(scenes[i]) for i in shown])
    rows = [
        ("renders", [Image.fromarray(image) for image in renders]),
        ("VAE round trip", round_trip(load_pipe(next(iter(folders.values()))), renders)),
    ]
    for name, folder in folders.items():
        pipe, guidance_scale = load_pipe(folder), results[f"{name} teacher"]["guidance_scale"]
        latents = generate(
            pipe, [captions[i] for i in shown], list(shown), TEACHER_STEPS, guidance_scale
        )
        rows.append((f"{name}\nteacher, {TEACHER_STEPS} steps", decode(pipe, latents)))
    labelled_rows(rows).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, help="default: results/ of the world")
    parser.add_argument(
        "--teachers", nargs="*", choices=FOLDERS, help="measure only these again; default: all"
    )
    parser.add_argument("--num_images", type=int, default=1536)
    add_world_flag(parser)
    args = parser.parse_args()
    world = load_world(args.world)
    folder, names = args.output_dir or world.folder / "results", teachers(world)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "world.json"
    judge = Judge.load(world=world)
    results = {**measure_judge_and_vae(judge, args.num_images)}
    for name in names if args.teachers is None else args.teachers:
        results |= measure_teacher(name, judge, args.num_images)
    results = {**(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}), **results}
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8", newline="\n")
    print(json.dumps(results, indent=1))
    if all(f"{name} teacher" in results for name in names):
        draw(results, folder / "world.png", world)


if __name__ == "__main__":
    main()
