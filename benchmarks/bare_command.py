"""What the bare command gives, on every teacher there is: `results/bare_command.json`.

    OMP_NUM_THREADS=1 python -m benchmarks.bare_command

Types, for every teacher, with pictures and with prompts alone,

    python train_lcm_lora.py --pretrained_teacher_model T --train_data_dir D --output_dir O \\
        --max_train_steps 400 --train_batch_size 24

and scores the adapters of its checkpoints in 1, 2, 4 and 8 steps, against the teacher's own 40
steps with the guidance that is distilled. Runs that are there are not repeated. Two of these
commands may work side by side on other subjects (`--only`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lcm
from benchmarks.methods.locks import lock
from benchmarks.methods.tables import table
from benchmarks.methods.teacher import write_json
from examples.shapes.community.judge import StyleJudge
from examples.shapes.community.load import FINE_TUNES, MODELS, community_model
from examples.shapes.community.styles import STYLES
from examples.shapes.evaluate import TEACHER_STEPS, decode, generate, interval, load_pipe
from examples.shapes.judge import Judge
from examples.worlds import World, load_world
from lcm.libraries.transformers import save_for_all

NAME = "bare_command.json"
RESULTS = Path(__file__).parent / "results" / NAME
ROOT = Path(__file__).parents[1]
STEPS = (1, 2, 4, 8)
UPDATES, BATCH_SIZE, EVERY = 400, 24, 100
IMAGES = 2000
"""Pictures to train on."""
NUM_IMAGES = 384
"""Pictures a cell, whole rounds of the captions where there are fewer of them."""
GUIDANCE_SCALE = 5.0
"""The guidance of the teacher's own pictures, and the one that the bare command distils."""
GOALS = {2: 0.92, 4: 0.97}
"""Number of steps -> the share of the teacher's own accuracy that is wanted."""
SLACK = 0.02
"""How much worse more steps, or a later checkpoint, may be."""


@dataclass(frozen=True)
class Subject:
    """A teacher and the kind of its data. `style` names the community model that it is, and the
    look of its pictures.
    """

    name: str
    world: str = "shapes"
    teacher: Path | None = None
    style: str | None = None
    prompts: bool = False

    @property
    def picture_world(self) -> World:
        """Captions and renderer."""
        return load_world(self.world)


SHAPES, PATTERNS = ROOT / "examples" / "shapes", ROOT / "examples" / "patterns"
TEACHERS = (
    Subject("epsilon", teacher=SHAPES / "teacher"),
    Subject("v_prediction, zero SNR", teacher=SHAPES / "teacher_v"),
    Subject("patterns, v_prediction, zero SNR", "patterns", PATTERNS / "teacher_v"),
    *(Subject(name, style=name) for name in (*FINE_TUNES, "neon")),
)
SUBJECTS = {
    f"{s.name}, {'prompts' if prompts else 'pictures'}": Subject(
        s.name, s.world, s.teacher, s.style, prompts
    )
    for prompts in (False, True)
    for s in TEACHERS
}


def teacher_words(subject: Subject, output_dir: Path) -> list[str]:
    """The words of the command that name the teacher, which is written where it has no folder: a
    fine-tune as one, a style LoRA beside the plain teacher.
    """
    if subject.teacher is not None:
        return ["--pretrained_teacher_model", str(subject.teacher)]
    assert subject.style is not None
    if subject.style not in FINE_TUNES:
        style = MODELS / f"{subject.style}.safetensors"
        plain = str(SHAPES / "teacher")
        return ["--pretrained_teacher_model", plain, "--teacher_lora", str(style)]
    folder = output_dir / "teachers" / subject.style
    with lock(output_dir / "locks" / subject.style, wait=True):
        if not (folder / "model_index.json").exists():
            save_for_all(community_model(subject.style), folder)
    return ["--pretrained_teacher_model", str(folder)]


def data_words(subject: Subject, output_dir: Path) -> list[str]:
    """The words of the command that name the data, which are written where they are not there."""
    world, look = subject.picture_world, subject.style or subject.world
    with lock(output_dir / "locks" / f"data-{look}", wait=True):
        if subject.prompts:
            prompts = output_dir / f"{subject.world}.txt"
            prompts.write_text("\n".join(world.captions) + "\n")
            return ["--prompts_file", str(prompts)]
        data = output_dir / "data" / look
        if not (data / "whole").exists():
            styles = [STYLES[subject.style]] if subject.style else []
            world.write_dataset(data, IMAGES, styles=styles)
            (data / "whole").touch()
    return ["--train_data_dir", str(data)]


def command(subject: Subject, run: Path, output_dir: Path, seed: int) -> list[str]:
    """The bare command. What follows the batch keeps checkpoints to score and draws no pictures."""
    return [
        *("train_lcm_lora.py", *teacher_words(subject, output_dir)),
        *(*data_words(subject, output_dir), "--output_dir", str(run)),
        *("--max_train_steps", str(UPDATES), "--train_batch_size", str(BATCH_SIZE)),
        *("--checkpointing_steps", str(EVERY), "--validation_prompts", "none"),
        *("--seed", str(seed)),
    ]


class Scorer:
    """Draws and judges: the stock pipeline of a subject, its captions, and seeds of their own."""

    def __init__(self, subject: Subject, num_images: int) -> None:
        self.subject, captions = subject, subject.picture_world.captions
        count = max(num_images, len(captions)) // len(captions) * len(captions)
        self.prompts = [captions[i % len(captions)] for i in range(count)]
        self.seeds = list(range(count))

    def score(self, steps: int, adapter: Path | None = None) -> dict[str, Any]:
        """Shares of pictures that are right, and right and in the style where there is one."""
        style = self.subject.style
        pipe = (
            load_pipe(self.subject.teacher) if self.subject.teacher else community_model(str(style))
        )
        guidance, eta = GUIDANCE_SCALE, 0.0
        if adapter is not None:
            recipe = lcm.attach(pipe, adapter)
            guidance, eta = recipe.guidance_scale, recipe.eta
        latents = generate(pipe, self.prompts, self.seeds, steps, guidance, eta=eta)
        pictures = decode(pipe, latents)
        if style is None:
            agrees = Judge.load(world=self.subject.picture_world).correct(pictures, self.prompts)
        else:
            agrees = StyleJudge.load().agrees(pictures, self.prompts, style)
        right = float(agrees[:, :3].all(axis=1).mean()) if style else float(agrees.all(1).mean())
        row = {"steps": steps, "pictures": len(pictures), "right": round(right, 4)}
        if style:
            row["in_style"] = round(float(agrees[:, 3:].all(axis=1).mean()), 4)
        return row


def measure(
    subject: Subject, name: str, seed: int, output_dir: Path, num_images: int
) -> dict[str, Any]:
    """Trains, unless that is done, and scores the checkpoints and the result."""
    run = output_dir / "runs" / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
    words = command(subject, run, output_dir, seed)
    log = output_dir / "logs" / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{name}: training ended with status {done.returncode}; see {log}")
    scorer = Scorer(subject, num_images)
    rows = []
    for update in range(EVERY, UPDATES + 1, EVERY):
        for steps in STEPS:
            found = scorer.score(steps, run / f"checkpoint-{update}")
            rows.append({"update": update, **found})
        print(name, seed, json.dumps(rows[-len(STEPS) :]), flush=True)
    # paths of this machine say nothing to others
    shown = [word.replace(str(output_dir), "out").replace(f"{ROOT}/", "") for word in words]
    return {"command": " ".join(shown), "teacher": scorer.score(TEACHER_STEPS), "rows": rows}


def verdict(result: dict[str, Any]) -> dict[str, Any]:
    """What the goals ask of a result: shares of the teacher's own, the worst fall with more steps,
    the worst fall from the best checkpoint; points are shares of pictures.
    """
    cells = {(row["update"], row["steps"]): row["right"] for row in result["rows"]}
    last = [cells[UPDATES, steps] for steps in STEPS]
    own = result["teacher"]["right"]
    late = max(
        max(right for (_, steps), right in cells.items() if steps == n) - cells[UPDATES, n]
        for n in STEPS
    )
    more = max(max(last[:i]) - right for i, right in enumerate(last) if i)
    return {
        "shares": {n: cells[UPDATES, n] / own for n in STEPS},
        "falls_with_steps": max(0.0, more),
        "falls_from_best": late,
    }


def goals_table(results: dict[str, Any]) -> str:
    """A line a subject and seed: shares of the teacher's own accuracy, and what the goals ask."""
    rows = []
    for name, seeds in results["runs"].items():
        for seed, result in seeds.items():
            judged = verdict(result)
            own = result["teacher"]["right"]
            missed = [f"{n} steps" for n, goal in GOALS.items() if judged["shares"][n] < goal]
            missed += ["more steps"] * (judged["falls_with_steps"] > SLACK)
            missed += ["its best"] * (judged["falls_from_best"] > SLACK)
            accuracy = f"{own:.1%} ± {interval(own, result['teacher']['pictures']):.1%}"
            shares = [f"{100 * judged['shares'][n]:.0f} %" for n in STEPS]
            points = [f"{100 * judged[f'falls_{w}']:.1f}" for w in ("with_steps", "from_best")]
            styles = [row.get("in_style") for row in result["rows"] if row["update"] == UPDATES]
            own_style = result["teacher"].get("in_style")
            look = f"{100 * styles[2] / own_style:.0f} %" if own_style and styles[2] else "-"
            rows.append([name, seed, accuracy, *shares, look, *points, ", ".join(missed) or "none"])
    head = ["teacher, data", "seed", "its own 40 steps", *(f"{n} steps" for n in STEPS)]
    head += ["in the style at 4", "lost with more steps", "below its best", "missed"]
    return table(head, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output_dir", type=Path, default=Path("out/bare_command"))
    parser.add_argument("--num_images", type=int, default=NUM_IMAGES, help="a cell")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    output_dir = args.output_dir.resolve()
    for seed in args.seeds:
        for name in args.only:
            with lock(output_dir / "locks" / f"{name}-{seed}", wait=True):
                if str(seed) in read(args.results)["runs"].get(name, {}):
                    continue
                result = measure(SUBJECTS[name], name, seed, output_dir, args.num_images)
            with lock(output_dir / "locks" / "results", wait=True):
                results = read(args.results)
                results["runs"].setdefault(name, {})[str(seed)] = result
                write_json(args.results, results)
    print(goals_table(read(args.results)))


def read(path: Path) -> dict[str, Any]:
    """The results so far."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    return results


if __name__ == "__main__":
    main()
