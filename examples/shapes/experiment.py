"""Runs a training configuration with several seeds and scores every adapter: the table of the
example's README.

    python -m examples.shapes.experiment --config examples/shapes/lcm_lora.yaml --seeds 0 1 \\
        --output_dir out/lcm_lora

Runs that are finished are not repeated, runs that were interrupted go on. "minutes" is training
alone, from the run's own log; "minutes_in_all" is every launch that ended well, with trajectories,
pictures and start-up. A run's pictures.png has ten captions and ten seeds of one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from PIL import Image

import lcm
from examples.shapes.demo import HERE, distil
from examples.shapes.evaluate import TEACHER_STEPS, decode, generate, load_pipe, score_adapter
from examples.shapes.pictures import labelled_rows, spread
from examples.shapes.render import CAPTIONS, write_dataset
from lcm.outputs.metrics import read_updates
from lcm.system.text import count


def minutes_of_training(run: Path) -> float:
    """Seconds of a run by its own log, so that interruptions and the start of Python do not
    count.
    """
    lines = read_updates(run)
    steps = [line["step"] for line in lines]
    lengths = [b - a for a, b in zip([0, *steps], steps, strict=False)]
    return (
        sum(line["seconds_per_step"] * length for line, length in zip(lines, lengths, strict=True))
        / 60
    )


def draw(teacher: Path, adapter: Path, num_steps: Sequence[int]) -> Image.Image:
    """The teacher with the guidance that was distilled, then the student: ten captions with their
    indices for seeds, and the first of them with ten seeds.
    """
    shown, pipe = list(spread(len(CAPTIONS))), load_pipe(teacher)
    captions = [CAPTIONS[i] for i in shown]
    sets = {"": captions, "\none caption": captions[:1] * len(shown)}

    def drawn(who: str, n: int, guidance: float, eta: float) -> list[tuple[str, list[Image.Image]]]:
        return [
            (
                f"{who}{count(n, 'step')}{which}",
                decode(pipe, generate(pipe, prompts, shown, n, guidance, eta=eta)),
            )
            for which, prompts in sets.items()
        ]

    guidance_scale = lcm.read_recipe(adapter).trained_guidance_scale[0]
    rows = drawn("teacher\n", TEACHER_STEPS, guidance_scale, 0.0)
    recipe = lcm.attach(pipe, adapter)
    for n in num_steps:
        rows += drawn("", n, recipe.guidance_scale, recipe.eta)
    return labelled_rows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=HERE / "lcm_lora.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output_dir", type=Path, default=Path("out/lcm_lora"))
    parser.add_argument(
        "--num_processes",
        type=int,
        default=1,
        help="that share the CPU's cores; each takes a whole batch",
    )
    parser.add_argument("--num_steps", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--num_images", type=int, default=1536)
    args = parser.parse_args()
    settings = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    teacher = Path(settings["pretrained_teacher_model"])
    data = None if "prompts_file" in settings else args.output_dir / "data"
    if data is not None and not (data / "metadata.jsonl").exists():
        write_dataset(data, num_images=7680)
    for seed in args.seeds:
        run = args.output_dir / f"seed-{seed}"
        if not (run / "README.md").exists():
            minutes = distil(
                args.config, data, run, "--seed", str(seed), num_processes=args.num_processes
            )
            with (run / "launches.jsonl").open("a", encoding="utf-8", newline="\n") as launches:
                launches.write(json.dumps({"minutes": round(minutes, 1)}) + "\n")
        if not (run / "scores.json").exists():
            scores = {
                "seed": seed,
                "minutes": round(minutes_of_training(run), 1),
                "minutes_in_all": [
                    json.loads(line)["minutes"]
                    for line in (run / "launches.jsonl").read_text(encoding="utf-8").splitlines()
                ],
                "rows": score_adapter(teacher, run, args.num_images, args.num_steps),
            }
            (run / "scores.json").write_text(
                json.dumps(scores, indent=1) + "\n", encoding="utf-8", newline="\n"
            )
            draw(teacher, run, args.num_steps).save(run / "pictures.png")
    found = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(args.output_dir.glob("seed-*/scores.json"))
    ]
    (args.output_dir / "scores.json").write_text(
        json.dumps(found, indent=1) + "\n", encoding="utf-8", newline="\n"
    )


if __name__ == "__main__":
    main()
