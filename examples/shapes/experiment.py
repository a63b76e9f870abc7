"""Runs a training configuration with several seeds and scores every adapter: the table of the example's README.

    python -m examples.shapes.experiment --config examples/shapes/lcm_lora.yaml --seeds 0 1 --output_dir out/lcm_lora

Runs that are finished are not repeated, runs that were interrupted go on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import lcm
from examples.shapes.demo import HERE, TEACHER, distil
from examples.shapes.evaluate import endpoint_nmse, load_pipe, other_seeds, score, teacher_endpoints
from examples.shapes.judge import Judge
from examples.shapes.render import write_dataset

NUM_STEPS = (1, 2, 4, 8)


def minutes_of_training(run: Path) -> float:
    """From the run's own log, so that interruptions and the start of Python do not count."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    lengths = [b - a for a, b in zip([0, *steps], steps, strict=False)]
    return sum(line["seconds_per_step"] * length for line, length in zip(lines, lengths, strict=True)) / 60


def evaluate(adapter: Path, num_images: int) -> list[dict[str, Any]]:
    """Accuracy at 1, 2, 4 and 8 steps; for 1 step also the distance to the teacher's picture of the same seed."""
    judge, pipe = Judge.load(), load_pipe(TEACHER)
    reference = teacher_endpoints(TEACHER, num_images, lcm.read_recipe(adapter).trained_guidance_scale[0])
    lcm.attach(pipe, adapter)
    rows = []
    for num_steps in NUM_STEPS:
        row, latents = score(pipe, judge, num_images, num_steps, 1.0)
        if num_steps == 1:  # with more steps the student draws noise of its own, and seeds no longer correspond
            row["endpoint_nmse"] = round(endpoint_nmse(latents, reference, other_seeds(reference)), 4)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=HERE / "lcm_lora.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output_dir", type=Path, default=Path("out/lcm_lora"))
    parser.add_argument("--num_images", type=int, default=1536)
    args = parser.parse_args()
    data = args.output_dir / "data"
    if not (data / "metadata.jsonl").exists():
        write_dataset(data, num_images=7680)
    for seed in args.seeds:
        run = args.output_dir / f"seed-{seed}"
        if not (run / "README.md").exists():
            distil(args.config, data, run, "--seed", str(seed), "--resume_from_checkpoint", "latest")
        if not (run / "scores.json").exists():
            scores = {"seed": seed, "minutes": round(minutes_of_training(run), 1), "rows": evaluate(run, args.num_images)}
            (run / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    found = [json.loads(path.read_text()) for path in sorted(args.output_dir.glob("seed-*/scores.json"))]
    (args.output_dir / "scores.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
