"""Every metric of everything that was drawn, with its interval, and of every two adapters the
difference.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HUB_CACHE

from lcm.evaluation.bootstrap import Interval, bound_of_difference, difference, interval
from lcm.evaluation.drawings import TEACHER, DamagedError, Drawings
from lcm.evaluation.features import Features
from lcm.evaluation.metric import FIXED, Metric, Statistic
from lcm.evaluation.metrics import METRICS
from lcm.evaluation.plan import Plan
from lcm.evaluation.reasons import Reason
from lcm.evaluation.scene import Scene
from lcm.evaluation.speed import Speed
from lcm.evaluation.weights import missing_packages, missing_weights
from lcm.system.paths import obstacle
from lcm.system.registry import lookup

REAL = "real"
"""What a result is called that is measured against --reference_dir."""


@dataclass(frozen=True)
class Result:
    """A statistic of one subject in one number of steps; `reference` is "teacher" or "real"."""

    metric: str
    drawn: Drawings
    reference: str
    statistic: Statistic
    value: float
    interval: Interval | None


def choose(names: Sequence[str] | None) -> list[str]:
    """The metrics asked for, all of them unless some are named. Raises ValueError for a name that
    there is not.
    """
    for name in names or ():
        lookup(METRICS, name, "metric")
    return list(dict.fromkeys(names)) if names else list(METRICS)


def look(names: Iterable[str], weights: Path | None, seeds: int) -> dict[str, Reason]:
    """Why metrics cannot be measured here, by name; nothing of those that can. Raises ValueError
    where --metric_weights is no folder.
    """
    if weights is not None and (what := obstacle(weights)) is not None:
        raise ValueError(f"metric_weights: {what}; pass the folder of the weights")
    reasons = {}
    for name in names:
        metric = METRICS[name]
        lacking = [*missing_packages(metric.packages), *missing_weights(metric.needs, weights)]
        if lacking:
            reasons[name] = Reason.joined(lacking)
        if seeds < metric.seeds:
            words = "it compares several pictures of a prompt; pass --seeds 0 1, or more"
            reasons[name] = Reason(words, words)
    return reasons


def scenes(
    plan: Plan, drawings: Sequence[Drawings], speeds: Mapping[str, Speed], features: Features
) -> list[Scene]:
    """What is measured: the teacher itself, then every adapter in every number of steps."""
    by_place = {(each.subject, each.steps): each for each in drawings}
    teacher = by_place[TEACHER, plan.teacher_steps]
    curve = {
        steps: by_place[TEACHER, steps]
        for steps in plan.curve_steps
        if (TEACHER, steps) in by_place
    }
    return [
        Scene(each, teacher, curve, features, speeds.get(each.name))
        for subject in plan.subjects
        for steps in plan.steps_of(subject)
        for each in [by_place[subject.name, steps]]
    ]


def measure(
    names: Sequence[str],
    asked: Sequence[Scene],
    real: Sequence[Path] | None,
    progress: Callable[[], None],
) -> tuple[list[Result], dict[str, Reason]]:
    """The results, and why a metric has none. One metric comes after the other, so that one network
    is in memory at a time; what goes wrong in one leaves the others.

    Raises DamagedError for a picture that was drawn and cannot be read.
    """
    results, failed = [], {}
    for name in names:
        metric = METRICS[name]
        try:
            results += list(results_of(name, metric, asked, real))
        except DamagedError:
            raise
        except (
            Exception
        ) as error:  # a plugin or a library may raise anything, hours after the start
            if os.environ.get("LCM_TRACEBACK"):
                raise
            failed[name] = Reason.of(error, folders_of(asked[0].features, real))
        progress()
    return results, failed


def folders_of(features: Features, real: Sequence[Path] | None) -> dict[str, Path | None]:
    """The folders of this machine that an error may name, by what others are told of them."""
    hub = Path(torch.hub.get_dir())
    return {
        "--metric_weights": features.weights,
        "--output": features.folder.parent,
        "--reference_dir": Path(os.path.commonpath([f.parent for f in real])) if real else None,
        "torch's cache, hub": hub,
        "the cache of the hub": Path(HF_HUB_CACHE),
    }


def results_of(
    name: str, metric: Metric, asked: Sequence[Scene], real: Sequence[Path] | None
) -> Iterable[Result]:
    """The results of one metric."""
    for scene in asked:
        references = [(TEACHER, scene)] if metric.of_teacher or not scene.is_teacher else []
        if real is not None and metric.of_sets:
            inside = Scene(
                scene.drawn, scene.teacher, scene.curve, scene.features, scene.speed, real
            )
            references.append((REAL, inside))
        for reference, each in references:
            found = metric.measure(each)
            if found is not None:
                value = found.value
                reach = interval(found) if math.isfinite(value) else None
                yield Result(name, scene.drawn, reference, found, value, reach)


# --- as JSON --------------------------------------------------------------------------------------


def number(value: float | None) -> float | None:
    """To 6 digits; None for what is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def as_json(result: Result) -> dict[str, Any]:
    """A result as evaluation.json has it."""
    statistic, reach = result.statistic, result.interval
    return {
        "subject": result.drawn.subject,
        "steps": result.drawn.steps,
        "metric": result.metric,
        "reference": result.reference,
        "value": number(result.value),
        "low": number(reach.low) if reach else None,
        "high": number(reach.high) if reach else None,
        "bound": statistic.bound,
        "ends": statistic.ends,
        "floor": number(statistic.floor),
        "prompts": None if statistic.resampled == FIXED else statistic.prompts,
        "pictures": statistic.pictures,
        "interval": statistic.resampled,
        **({"details": dict(statistic.details)} if statistic.details else {}),
    }


def compare(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Every other adapter beside the first, in the same number of steps: the difference over the
    same prompts, and whether it is beyond the noise.
    """
    adapters = [each for each in results if each.drawn.subject != TEACHER]
    names = list(dict.fromkeys(each.drawn.subject for each in adapters))
    by_place = {
        (each.drawn.subject, each.drawn.steps, each.metric, each.reference): each
        for each in adapters
    }
    found = []
    for other in names[1:]:
        for (subject, steps, metric, reference), mine in by_place.items():
            base = by_place.get((names[0], steps, metric, reference))
            if subject != other or base is None:
                continue
            compared = difference(mine.statistic, base.statistic)
            if compared is None or not math.isfinite(compared[0]):
                continue
            try:
                bound = bound_of_difference(mine.statistic, base.statistic)
            except ValueError:
                continue
            value, reach = compared
            beyond = None if reach is None else reach.excludes(0.0)
            winner = better(METRICS[metric], mine, base) if beyond else None
            found.append(
                {
                    **{"one": other, "other": names[0], "steps": steps, "metric": metric},
                    **{"reference": reference, "difference": number(value)},
                    "bound": bound,
                    "low": number(reach.low) if reach else None,
                    "high": number(reach.high) if reach else None,
                    "beyond_noise": beyond,
                    "better": winner,
                }
            )
    return found


def better(metric: Metric, one: Result, other: Result) -> str | None:
    """The name of the better of two that differ; None where both are about as far from what the
    teacher has, one above and one below.
    """
    if metric.better == "teacher":
        compared = difference(one.statistic, other.statistic, metric.neutral or 0.0)
        if compared is None or compared[1] is None or not compared[1].excludes(0.0):
            return None
        wins = compared[0] < 0
    else:
        wins = (one.value > other.value) is (metric.better == "higher")
    return (one if wins else other).drawn.subject
