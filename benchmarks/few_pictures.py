"""How many pictures a distillation needs: 30, 300 and 3000 of the tiny world.

python -m benchmarks.few_pictures --output_dir out/few_pictures

A smaller set is drawn at random from a larger one; everything else is that of
`examples/shapes/short.yaml`, 400 updates of 24 samples. A run of its own
for every number of pictures, a few minutes each.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path
from typing import Any

from examples.shapes.demo import HERE as SHAPES
from examples.shapes.demo import distil
from examples.shapes.evaluate import score_adapter
from examples.shapes.render import write_dataset
from lcm.system.text import count

NAME = "few_pictures.json"
RESULTS = Path(__file__).parent / "results" / NAME
STEPS = [1, 2, 4, 8]


def some_of(everything: Path, pictures: int, folder: Path) -> int:
    """Copies so many of the pictures, with their captions; the number of different captions."""
    rows = (everything / "metadata.jsonl").read_text().splitlines()
    chosen = random.Random(0).sample(rows, len(rows))[:pictures]  # a larger set holds a smaller one
    folder.mkdir(parents=True)
    for row in chosen:
        name = json.loads(row)["file_name"]
        shutil.copy(everything / name, folder / name)
    (folder / "metadata.jsonl").write_text("\n".join(chosen))
    return len({json.loads(row)["text"] for row in chosen})


def measure(everything: Path, pictures: int, output_dir: Path, num_images: int) -> dict[str, Any]:
    """Trains on so many pictures and scores the adapter on `num_images` captions and seeds."""
    data, run = output_dir / f"data-{pictures}", output_dir / f"run-{pictures}"
    captions = some_of(everything, pictures, data)
    minutes = distil(SHAPES / "short.yaml", data, run)
    rows = score_adapter(SHAPES / "teacher", run, num_images, STEPS)
    return {
        "pictures": pictures,
        "captions": captions,
        "minutes": round(minutes, 1),
        "rows": [row for row in rows if not row.get("teacher")],
    }


def few_pictures_table(results: dict[str, Any]) -> str:
    """Markdown: share of the pictures with shape, colour and background right."""
    heads = [count(steps, "step") for steps in STEPS]
    lines = [f"| pictures | captions | {' | '.join(heads)} |", "|---" * (len(STEPS) + 2) + "|"]
    for run in results["runs"]:
        cells = [f"{row['all_right']:.1%} ± {row['plus_minus']:.1%}" for row in run["rows"]]
        lines.append(f"| {run['pictures']} | {run['captions']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, default=Path("out/few_pictures"))
    parser.add_argument("--pictures", type=int, nargs="+", default=[30, 300, 3000])
    parser.add_argument("--num_images", type=int, default=768)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    everything = args.output_dir / "data"
    write_dataset(everything, num_images=max(args.pictures))
    runs = []
    for pictures in args.pictures:
        runs.append(measure(everything, pictures, args.output_dir, args.num_images))
        args.results.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
        print(few_pictures_table({"runs": runs}), flush=True)


if __name__ == "__main__":
    main()
