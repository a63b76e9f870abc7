"""Latent consistency fine-tuning: teaches the bundled adapter the style of a few hundred images,
without any teacher.

    python -m examples.shapes.style --output_dir out/style

The style, "blueprint": white on navy, whatever colours the caption names. Writes style.png and
style.json: the share of pictures in the style, and the share with the right shape.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from PIL import Image

import lcm
from examples.shapes.demo import HERE, TEACHER, distil
from examples.shapes.evaluate import decode, generate, load_pipe, prompts_and_seeds
from examples.shapes.judge import Judge
from examples.shapes.pictures import labelled_rows, spread
from examples.shapes.render import ATTRIBUTES, CAPTIONS, Scene, caption, render, sample_dataset
from lcm.system.text import count


def in_style(scene: Scene) -> Scene:
    """The scene as the style draws it."""
    return dataclasses.replace(scene, color="white", background="navy")


def write_style(folder: Path, num_images: int, seed: int = 0) -> None:
    """Images and metadata.jsonl; the captions are the plain ones."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, scene in enumerate(sample_dataset(num_images, seed)):
        Image.fromarray(render(in_style(scene))).save(folder / f"{i:04d}.png")
        rows.append(json.dumps({"file_name": f"{i:04d}.png", "text": scene.caption}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")


def compare(run: Path, num_images: int) -> list[dict[str, Any]]:
    """Pictures before and after; writes style.png and style.json into `run`."""
    judge, (prompts, seeds) = Judge.load(), prompts_and_seeds(num_images)
    shown = list(spread(len(CAPTIONS)))
    scenes = sample_dataset(len(CAPTIONS), 20_000)
    pictures = [("the style", [Image.fromarray(render(in_style(scenes[i]))) for i in shown])]
    rows = []
    for name, adapter in (("before", HERE / "lcm_lora"), ("after", run)):
        pipe = load_pipe(TEACHER)
        lcm.attach(pipe, adapter)
        for steps in (4, 2, 1):
            images = decode(pipe, generate(pipe, prompts, seeds, steps, 1.0))
            # judged as if the captions had asked for the style
            correct = judge.correct(
                images,
                [caption((ATTRIBUTES[CAPTIONS.index(p)][0], "white", "navy")) for p in prompts],
            )
            rows.append(
                {
                    "adapter": name,
                    "steps": steps,
                    "images": num_images,
                    "in_style": round(float(correct[:, 1:].all(axis=1).mean()), 4),
                    "shape": round(float(correct[:, 0].mean()), 4),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            if name == "after" or steps == 4:
                pictures.append((f"{name},\n{count(steps, 'step')}", [images[i] for i in shown]))
    labelled_rows(pictures).save(run / "style.png")
    (run / "style.json").write_text(
        json.dumps(rows, indent=1) + "\n", encoding="utf-8", newline="\n"
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, default=Path("out/style"))
    parser.add_argument("--num_images", type=int, default=384)
    args, flags = parser.parse_known_args()
    data, run = args.output_dir / "data", args.output_dir / "run"
    if not (data / "metadata.jsonl").exists():
        write_style(data, 576)
    if not (run / "README.md").exists():
        distil(HERE / "style.yaml", data, run, *flags)
    compare(run, args.num_images)


if __name__ == "__main__":
    main()
