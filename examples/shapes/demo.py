"""The demo: distil the bundled tiny teacher, then show and score teacher and student side by side.

python -m examples.shapes.demo --output_dir out/demo
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lcm
from examples.shapes.evaluate import TEACHER_STEPS, decode, load_pipe, score
from examples.shapes.judge import Judge
from examples.shapes.pictures import labelled_rows, spread
from examples.shapes.render import write_dataset
from lcm.system.text import count

HERE = Path(__file__).parent
TEACHER = HERE / "teacher"


def distil(
    config: Path, data: Path | None, output_dir: Path, *flags: str, num_processes: int = 1
) -> float:
    """Trains through the documented command, on `data` where the configuration names no prompts;
    the minutes it took.

    `num_processes` share the CPU's cores.
    """
    start = time.perf_counter()
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--num_processes",
        str(num_processes),
    ]
    launch += ["--multi_gpu", "--main_process_port", "0"] if num_processes > 1 else ["--cpu"]
    quiet = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    images = [] if data is None else ["--train_data_dir", str(data)]
    script = [
        "train_lcm_lora.py",
        "--config",
        str(config),
        *images,
        "--output_dir",
        str(output_dir),
    ]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    subprocess.run([*launch, *quiet, *script, *flags], check=True, env=environment)
    return (time.perf_counter() - start) / 60


def compare(output_dir: Path, num_images: int) -> list[dict[str, Any]]:
    """Scores teacher at 40 and 4 steps and student at 4, 2 and 1; writes demo.png and demo.json."""
    judge, pipe = Judge.load(), load_pipe(TEACHER)
    guidance_scale = lcm.read_recipe(output_dir).trained_guidance_scale[0]
    plan = [("teacher", TEACHER_STEPS, guidance_scale), ("teacher", 4, guidance_scale)] + [
        ("student", n, 1.0) for n in (4, 2, 1)
    ]
    rows, pictures = [], []
    for who, steps, guidance in plan:
        if who == "student" and "lcm" not in pipe.get_list_adapters().get("unet", []):
            lcm.attach(pipe, output_dir)
        start = time.perf_counter()
        row, latents = score(pipe, judge, num_images, steps, guidance)
        rows.append({"who": who, **row, "seconds": round(time.perf_counter() - start, 1)})
        shown = latents[list(spread(len(latents)))]
        label = f"{who}\n{count(steps, 'step')}: {100 * row['all_right']:.0f} % right"
        pictures.append((label, decode(pipe, shown)))
    labelled_rows(pictures).save(output_dir / "demo.png")
    (output_dir / "demo.json").write_text(
        json.dumps(rows, indent=1) + "\n", encoding="utf-8", newline="\n"
    )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: share of pictures with shape, colour and background right."""
    lines = [
        "| | steps | all three right | shape | color | background |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['who']} | {row['steps']} | {row['all_right']:.1%} ± {row['plus_minus']:.1%} "
        f"| {row['shape']:.1%} | {row['color']:.1%} | {row['background']:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("out/demo"), help="made anew by every demo"
    )
    parser.add_argument("--config", type=Path, default=HERE / "demo.yaml")
    parser.add_argument("--num_images", type=int, default=384)
    args, flags = parser.parse_known_args()
    shutil.rmtree(args.output_dir, ignore_errors=True)
    data = args.output_dir / "data"
    write_dataset(data, num_images=3840)
    minutes = distil(args.config, data, args.output_dir / "run", *flags)
    print(
        f"distilled in {minutes:.1f} minutes; now scoring {args.num_images} pictures a row",
        flush=True,
    )
    rows = compare(args.output_dir / "run", args.num_images)
    print(
        f"\n{table(rows)}\n\npicture: {args.output_dir / 'run' / 'demo.png'}\nadapter: "
        f"{args.output_dir / 'run'}"
    )


if __name__ == "__main__":
    main()
