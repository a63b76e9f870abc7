"""What helps a single step on a community model: where it begins, and a few updates on the very
model.

    python -m examples.shapes.community.one_step --output_dir out/one_step

Plays the bundled adapter, that adapter after 50 updates on each model with prompts alone, and one
of score distillation (`--objective dmd`) of the plain teacher, from several first timesteps. Cells
that are there are not measured again. Writes one_step.json and one_step.png; copied to `results/`,
the first is what `tables` makes the README's table of.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

import lcm
from examples.shapes.community.experiment import EVERY_MODEL, SHIPPED, shares, teacher_flags
from examples.shapes.community.judge import StyleJudge
from examples.shapes.community.load import FINE_TUNES, community_model
from examples.shapes.demo import HERE, TEACHER
from examples.shapes.evaluate import decode, generate, prompts_and_seeds
from examples.shapes.pictures import labelled_rows, spread
from examples.shapes.render import CAPTIONS, write_dataset
from lcm.libraries.transformers import save_for_all

NAME = "one_step.json"
FIRST = {1: (999, 799, 699, 599), 2: (999, 799, 699, 599), 4: (999, 799)}
"""Number of steps -> where the first may begin, above the second; 999 is the last timestep, the
scheduler's own.
"""
BASE, TUNED, DMD = "base", "tuned", "dmd"
UPDATES = 50


def models_of(adapter: str) -> tuple[str, ...]:
    """Whom an adapter is played on: the plain teacher has no adapter of its own."""
    return EVERY_MODEL if adapter != TUNED else tuple(m for m in EVERY_MODEL if m != "plain")


def tuning(model: str, output_dir: Path) -> list[str]:
    """The flags of a few updates of the bundled adapter on the model, with prompts alone and the
    defaults.
    """
    folder = output_dir / "models"
    if model in FINE_TUNES and not (folder / model).exists():
        save_for_all(community_model(model), folder / model)
    return [
        *(*teacher_flags(f"own-{model}", folder), "--prompts_file", str(HERE / "prompts.txt")),
        *("--init_adapter", str(SHIPPED), "--max_train_steps", str(UPDATES)),
    ]


def score_distillation(output_dir: Path) -> list[str]:
    """The flags of an adapter of the plain teacher, the row `dmd` of the methods' table."""
    data = output_dir / "data"
    if not (data / "metadata.jsonl").exists():
        write_dataset(data, 7680)
    return [
        *("--train_data_dir", str(data), "--objective", "dmd", "--max_train_steps", "400"),
        *("--learning_rate", "1e-3", "--lr_scheduler", "cosine", "--lr_warmup_steps", "20"),
    ]


def adapter_on(model: str, adapter: str, output_dir: Path) -> Path:
    """Its folder; what it needs is made, and it is trained, unless that was finished before."""
    if adapter == BASE:
        return SHIPPED
    run = output_dir / "adapters" / (DMD if adapter == DMD else model)
    if not (run / "README.md").exists():
        flags = score_distillation(output_dir) if adapter == DMD else tuning(model, output_dir)
        always = [
            *("--pretrained_teacher_model", str(TEACHER), "--output_dir", str(run)),
            *("--validation_prompts", "none", "--lora_rank", "32", "--train_batch_size", "24"),
        ]
        # a flag that is repeated has its last value
        subprocess.run([sys.executable, "train_lcm_lora.py", *always, *flags], check=True)
    return run


def pictures(
    model: str, adapter: Path, first: int, steps: int, prompts: list[str], seeds: list[int]
) -> list[Image.Image]:
    """Drawn by the stock pipeline with the adapter, in `steps` steps of which the first begins at
    the timestep `first`.
    """
    pipe = community_model(model)
    recipe = lcm.attach(pipe, adapter)
    pipe.scheduler.set_timesteps(steps)
    times = [first, *pipe.scheduler.timesteps.tolist()[1:]]
    latents = generate(
        pipe, prompts, seeds, steps, recipe.guidance_scale, eta=recipe.eta, timesteps=times
    )
    return decode(pipe, latents)


def measure(cell: dict[str, Any], adapter: Path, num_images: int) -> dict[str, Any]:
    """The cell with the shares of its pictures."""
    prompts, seeds = prompts_and_seeds(num_images)
    images = pictures(cell["model"], adapter, cell["first"], cell["steps"], prompts, seeds)
    agrees = StyleJudge.load().agrees(images, prompts, cell["model"])
    return {
        **cell,
        "images": num_images,
        **shares(agrees),
    }


def draw(output_dir: Path) -> None:
    """A single step of the bundled adapter on every model, from the last timestep and from 699."""
    shown, rows = list(spread(len(CAPTIONS))), []
    prompts = [CAPTIONS[i] for i in shown]
    for model, first in product(EVERY_MODEL, (999, 699)):
        images = pictures(model, SHIPPED, first, 1, prompts, shown)
        rows.append((f"{model}\n1 step from {first}", images))
    labelled_rows(rows).save(output_dir / "one_step.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, default=Path("out/one_step"))
    parser.add_argument("--num_images", type=int, default=384, help="a cell")
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / NAME
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    names = ("model", "adapter", "steps", "first")
    done = {tuple(row[name] for name in names) for row in rows}
    for adapter in (BASE, TUNED, DMD):
        begin = [(steps, first) for steps, firsts in FIRST.items() for first in firsts]
        for model, (steps, first) in product(models_of(adapter), begin):
            key = (model, adapter, steps, first)
            if key in done:
                continue
            folder = adapter_on(model, adapter, args.output_dir.resolve())
            rows.append(measure(dict(zip(names, key, strict=True)), folder, args.num_images))
            print(json.dumps(rows[-1]), flush=True)
            path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8", newline="\n")
    draw(args.output_dir)


if __name__ == "__main__":
    main()
