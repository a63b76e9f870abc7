"""The whole of an evaluation: drawn, measured, and written as evaluation.json, a page and a block
for the model card.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcm.adapter.recipe import Recipe
from lcm.data.formats import IMAGE_SUFFIXES
from lcm.evaluation.drawings import FOLDER as PICTURES
from lcm.evaluation.drawings import Drawings
from lcm.evaluation.features import FOLDER as FEATURES
from lcm.evaluation.features import Features
from lcm.evaluation.metrics import METRICS
from lcm.evaluation.plan import Plan
from lcm.evaluation.reasons import Reason
from lcm.evaluation.scoring import as_json, compare, measure, scenes
from lcm.evaluation.speed import Speed
from lcm.evaluation.subjects import Subject
from lcm.inference.generate import write_json
from lcm.system.about import installed
from lcm.system.device import name_of
from lcm.system.json_input import read_object
from lcm.system.paths import obstacle
from lcm.system.public_names import public_name

JSON_NAME, PAGE_NAME, CARD_NAME = "evaluation.json", "evaluation.html", "card.md"
FORMAT = 1
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "torch-fidelity")


@dataclass(frozen=True)
class Facts:
    """What is told of an evaluation besides its numbers."""

    base: str
    prompts_from: str
    real_from: str | None
    device: Any
    dtype: str


def real_pictures(folder: Path | None) -> list[Path] | None:
    """The pictures in --reference_dir, in folders inside it too. Raises ValueError where there are
    too few.
    """
    if folder is None:
        return None
    if not folder.is_dir():
        raise ValueError(f"reference_dir: there is no folder {folder}; pass one of real pictures")
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    ]
    if len(found) < 2:
        raise ValueError(
            f"reference_dir: {folder} holds {len(found)} pictures; a set to compare with has some "
            "hundreds"
        )
    return found


def check_ways(folder: Path, overwrite: bool) -> None:
    """Raises ValueError where something lies in the way of what is written, or a file would be
    replaced that is of no evaluation.
    """
    for place in (folder / PICTURES, folder / FEATURES):
        if (what := obstacle(place)) is not None:
            raise ValueError(
                f"output: {what}, and a folder of the evaluation is; move it away, or pass another "
                "--output"
            )
    is_known = is_evaluation(folder / JSON_NAME)
    for path in (folder / name for name in (JSON_NAME, PAGE_NAME, CARD_NAME)):
        if path.is_dir():
            raise ValueError(
                f"output: {path} is a folder, and the evaluation writes a file of that name; move "
                "it away, or pass another --output"
            )
        if path.exists() and not (is_known or overwrite):
            raise ValueError(
                f"output: {path} is of no evaluation, and would be replaced; pass another "
                "--output, or --overwrite"
            )


def is_evaluation(path: Path) -> bool:
    """Whether a file is an evaluation.json."""
    try:
        return read_object(path, "").keys() >= {"format", "results", "comparisons"}
    except (OSError, ValueError):
        return False


def evaluate(
    plan: Plan,
    drawings: Sequence[Drawings],
    speeds: Mapping[str, Speed],
    names: Sequence[str],
    features: Features,
    real: Sequence[Path] | None,
    progress: Callable[[], None],
) -> tuple[dict[str, Any], dict[str, Reason]]:
    """Everything that was measured, as evaluation.json has it, and why metrics failed."""
    asked = scenes(plan, drawings, speeds, features)
    results, failed = measure(names, asked, real, progress)
    measured = list(dict.fromkeys(each.metric for each in results))
    return {
        "metrics": {name: described(name) for name in measured},
        "results": [as_json(each) for each in results],
        "comparisons": compare(results),
    }, failed


def described(name: str) -> dict[str, Any]:
    """What a metric is, for who reads the file."""
    metric = METRICS[name]
    return {
        **{"title": metric.title, "group": metric.group, "better": metric.better},
        **{"about": metric.about, "form": metric.form},
    }


def heading(plan: Plan, facts: Facts, drawings: Sequence[Drawings]) -> dict[str, Any]:
    """What was evaluated and how, without paths of this machine: the file goes out into the
    world.
    """
    text = "\n".join(plan.prompts)
    teacher, *adapters = plan.subjects
    paired = {(each.subject, each.steps): each.is_paired for each in drawings}
    return {
        "format": FORMAT,
        "base": public_name(facts.base),
        "adapters": [
            {
                **of_adapter(each),
                "adds_noise_in": [n for n in plan.steps if not paired[each.name, n]],
            }
            for each in adapters
        ],
        "steps": list(plan.steps),
        "teacher": {
            "steps": plan.teacher_steps,
            "guidance_scale": teacher.settings.guidance_scale,
            "scheduler": "DDIMScheduler, trailing",
        },
        "prompts": {
            "count": len(plan.prompts),
            "from": facts.prompts_from,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        },
        "seeds": list(plan.seeds),
        "reference_dir": None if facts.real_from is None else public_name(facts.real_from),
        "device": name_of(facts.device),
        "dtype": facts.dtype,
        "versions": {name: installed(name) for name in LIBRARIES},
    }


def of_adapter(subject: Subject) -> dict[str, Any]:
    """An adapter, and how it was sampled."""
    recipe: Recipe | None = subject.recipe
    return {
        "name": subject.name,
        "adapter": public_name(str(subject.source)),
        "weight": subject.weight,
        "objective": None if recipe is None else recipe.objective,
        "scheduler": subject.scheduler if recipe is None else recipe.scheduler,
        "guidance_scale": subject.settings.guidance_scale,
        "eta": subject.settings.eta,
    }


def write(folder: Path, content: dict[str, Any]) -> None:
    """Writes evaluation.json."""
    write_json(folder / JSON_NAME, content)
