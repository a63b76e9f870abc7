"""Universal acceleration: does an adapter distilled from the base model speed up its community
models?

    python -m examples.shapes.community.experiment --output_dir out/community

Distils one adapter from the base teacher, one on every community model, one with the style LoRA
frozen in the teacher and one on a mixture of teachers, all with the same settings, and scores them
on every model. Runs and cells that are finished are not repeated. Writes scores.json, judge.json
and community.png; copied to `results/` (scores.json as community.json), they are what `python -m
examples.shapes.community.tables` makes the README's tables of.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
from PIL import Image

import lcm
from examples.shapes.community.judge import StyleJudge, share_by_style
from examples.shapes.community.load import FINE_TUNES, MODELS, STYLE_LORAS, community_model
from examples.shapes.community.styles import STYLES
from examples.shapes.demo import HERE, distil
from examples.shapes.evaluate import TEACHER_STEPS, decode, generate, interval, prompts_and_seeds
from examples.shapes.judge import HEADS
from examples.shapes.pictures import labelled_rows, spread
from examples.shapes.render import CAPTIONS, write_dataset
from examples.shapes.report import HELD_OUT_SEED
from lcm.libraries.transformers import save_for_all

FEW = (1, 2, 4, 8)
GUIDANCE_SCALE = 5.0
"""Steps of a model without an adapter, and what the adapters are distilled with."""
WEIGHTS, STYLE_WEIGHTS, GUIDANCE_SCALES = (0.8, 0.9, 1.0), (0.6, 0.8, 1.0, 1.2), (1.0, 1.5)
"""What is swept at 4 steps: the weight of the base adapter, that of the style LoRA, guidance on top
of the adapter's.
"""
EVERY_MODEL = ("plain", *FINE_TUNES, *STYLE_LORAS)
MIXED = ("outlined", "shadow")
"""What the mixture of teachers has beside the base teacher; the other models are new to its
adapter.
"""
SHIPPED = HERE / "lcm_lora"


@dataclass(frozen=True)
class Cell:
    """Who draws, and how: a row of the raw results. `weight` is the adapter's, `style_weight` that
    of the style LoRA.
    """

    model: str
    adapter: str
    steps: int
    weight: float = 1.0
    style_weight: float = 1.0
    guidance_scale: float = 1.0
    scheduler: str = ""  # when it is not the model's own or that of the adapter's recipe


def alone(model: str, steps: int, style_weight: float = 1.0, scheduler: str = "") -> Cell:
    """The model without an adapter."""
    return Cell(model, "none", steps, 1.0, style_weight, GUIDANCE_SCALE, scheduler)


def adapters_for(model: str) -> tuple[str, ...]:
    """Those that are distilled with the same settings."""
    own = () if model == "plain" else (f"own-{model}",)
    return ("base", *own, "mixture")


def cells() -> Iterator[Cell]:
    """Everything that is measured, each once."""
    for model in EVERY_MODEL:
        yield alone(model, TEACHER_STEPS)
        yield alone(model, 4)
        yield alone(model, 4, scheduler="LCMScheduler")
        yield from (Cell(model, adapter, steps) for adapter in adapters_for(model) for steps in FEW)
        yield Cell(model, "shipped", 4)
        yield from (Cell(model, "base", 4, weight) for weight in WEIGHTS if weight != 1.0)
        yield from (
            Cell(model, "base", 4, guidance_scale=scale)
            for scale in GUIDANCE_SCALES
            if scale != 1.0
        )
    for model, style in itertools.product(STYLE_LORAS, STYLE_WEIGHTS):
        if style != 1.0:
            yield from (Cell(model, "base", 4, weight, style) for weight in WEIGHTS)


def teacher_flags(adapter: str, models: Path) -> list[str]:
    """What tells the training of an adapter from that of the base adapter."""
    model = adapter.removeprefix("own-")
    if model in FINE_TUNES:
        return ["--pretrained_teacher_model", str(models / model)]
    if model in STYLE_LORAS:
        return ["--teacher_lora", str(MODELS / f"{model}.safetensors")]
    if adapter == "mixture":
        return ["--extra_teachers", *(str(models / model) for model in MIXED)]
    return []


def styles_of(adapter: str) -> list[str]:
    """What the training pictures of an adapter look like: those that its teachers were made
    with.
    """
    return {"base": ["plain"], "mixture": ["plain", *MIXED]}.get(
        adapter, [adapter.removeprefix("own-")]
    )


def adapter_folder(adapter: str, output_dir: Path, config: Path) -> Path:
    """Where the adapter is; it is distilled first when that was not done yet."""
    if adapter == "shipped":
        return SHIPPED
    run = output_dir / "adapters" / adapter
    data = output_dir / "data" / adapter
    models = output_dir / "models"
    if not (run / "README.md").exists():
        for model in set(FINE_TUNES) & set(styles_of(adapter)):
            if not (models / model).exists():
                save_for_all(community_model(model), models / model)
        if not (data / "metadata.jsonl").exists():
            write_dataset(data, 3840, styles=[STYLES[style] for style in styles_of(adapter)])
        distil(config, data, run, *teacher_flags(adapter, models))
    return run


def pipeline(cell: Cell, output_dir: Path, config: Path) -> tuple[Any, float]:
    """Ready to play, and the eta to pass."""
    pipe, eta = community_model(cell.model, cell.style_weight), 0.0
    if cell.adapter != "none":
        eta = lcm.attach(pipe, adapter_folder(cell.adapter, output_dir, config), cell.weight).eta
    if cell.scheduler:
        pipe.scheduler = getattr(diffusers, cell.scheduler).from_config(pipe.scheduler.config)
    return pipe, eta


def pictures(
    cell: Cell, output_dir: Path, config: Path, prompts: list[str], seeds: list[int]
) -> list[Image.Image]:
    pipe, eta = pipeline(cell, output_dir, config)
    return decode(pipe, generate(pipe, prompts, seeds, cell.steps, cell.guidance_scale, eta=eta))


def share(name: str, agrees: np.ndarray) -> dict[str, float]:
    """The share of the pictures that agree in all columns of bool [B, columns], with the half width
    of its 95 % interval.
    """
    value = float(agrees.all(axis=1).mean())
    return {name: round(value, 4), f"{name}_plus_minus": round(interval(value, len(agrees)), 4)}


def shares(agrees: np.ndarray) -> dict[str, float]:
    """What is kept of a cell, of what the judge says of its pictures, bool [B, 4]."""
    return {
        **share("all_right", agrees[:, :3]),
        **share("in_style", agrees[:, 3:]),
        **share("both", agrees),
        **dict(zip(HEADS, agrees.mean(axis=0).round(4).tolist(), strict=False)),
    }


def measure(cell: Cell, output_dir: Path, config: Path, num_images: int) -> dict[str, Any]:
    prompts, seeds = prompts_and_seeds(num_images)
    images = pictures(cell, output_dir, config, prompts, seeds)
    agrees = StyleJudge.load().agrees(images, prompts, cell.model)
    return {
        **asdict(cell),
        "images": num_images,
        **shares(agrees),
    }


def cell_of(row: dict[str, Any]) -> Cell:
    """What a row of the raw results measured."""
    return Cell(**{field.name: row[field.name] for field in fields(Cell)})


def measured(output_dir: Path, config: Path, num_images: int) -> list[dict[str, Any]]:
    """All cells, in order; what scores.json in `output_dir` has already is not measured again."""
    path = output_dir / "scores.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    done = {cell_of(row): row for row in rows}
    for cell in cells():
        if cell not in done:
            done[cell] = measure(cell, output_dir, config, num_images)
            print(json.dumps(done[cell]), flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                json.dumps(list(done.values()), indent=1) + "\n", encoding="utf-8", newline="\n"
            )
    return [done[cell] for cell in cells()]


def draw(output_dir: Path, config: Path) -> None:
    """Every model: its own 40 steps and 4 steps, and the base adapter's 4 steps, from the same
    noise.
    """
    shown, rows = list(spread(len(CAPTIONS))), []
    for model in (*FINE_TUNES, *STYLE_LORAS):
        cells = {
            "40 steps": alone(model, TEACHER_STEPS),
            "4 steps": alone(model, 4),
            "base adapter, 4 steps": Cell(model, "base", 4),
        }
        for label, cell in cells.items():
            rows.append(
                (
                    f"{model}\n{label}",
                    pictures(cell, output_dir, config, [CAPTIONS[i] for i in shown], shown),
                )
            )
    labelled_rows(rows).save(output_dir / "community.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, default=Path("out/community"))
    parser.add_argument(
        "--config",
        type=Path,
        default=HERE / "short.yaml",
        help="settings of every adapter that is distilled",
    )
    parser.add_argument("--num_images", type=int, default=384, help="a cell")
    args = parser.parse_args()
    measured(args.output_dir, args.config, args.num_images)
    renders = share_by_style(StyleJudge.load(), args.num_images, HELD_OUT_SEED)
    decoded = share_by_style(
        StyleJudge.load(), args.num_images, HELD_OUT_SEED, community_model("plain")
    )
    (args.output_dir / "judge.json").write_text(
        json.dumps(renders + decoded, indent=1) + "\n", encoding="utf-8", newline="\n"
    )
    draw(args.output_dir, args.config)


if __name__ == "__main__":
    main()
