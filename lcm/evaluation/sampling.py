"""Drawing what is compared: shared out over processes, kept picture by picture, and never twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from lcm.evaluation.drawings import FOLDER, Drawings
from lcm.evaluation.plan import Plan
from lcm.evaluation.speed import Meter, Speed, read_speed, write_speed
from lcm.evaluation.subjects import base_digest
from lcm.inference.generate import Planned, Settings, draw_batch
from lcm.inference.texts import settle_texts
from lcm.system.processes import Team

Progress = Callable[[int], None]
"""Is told how many more pictures are there."""


def prepare_drawings(plan: Plan, pipe: Any, say: Callable[[str], None]) -> list[Drawings]:
    """What every subject is to draw, the teacher's first, with their keys; prompts that are too
    long are told of by `say`, once.
    """
    base, found, problem = base_digest(pipe), [], None
    for subject in plan.subjects:
        with subject.sampling(pipe):
            settings, problem = settle_texts(pipe, plan.prompts, subject.settings, None)
            settled = replace(subject, settings=settings.with_size(pipe))
            key = settled.key(pipe, base)
            for steps, rows, seeds in plan.wanted(subject):
                found.append(
                    Drawings(
                        subject=subject.name,
                        steps=steps,
                        prompts=tuple(plan.prompts[row] for row in rows),
                        rows=tuple(rows),
                        seeds=tuple(seeds),
                        folder=plan.folder / FOLDER / subject.name / f"{steps}steps",
                        key=f"{key}-{steps}",
                        is_paired=settled.is_paired(pipe, steps),
                    )
                )
    if problem is not None:
        say(f"warning: {problem}")
    return found


def check_places(drawings: Sequence[Drawings]) -> None:
    """Raises ValueError where pictures that were drawn with other settings would be replaced."""
    for each in drawings:
        for index, seed in each.places():
            if each.is_others(index, seed):
                raise ValueError(
                    f"output: {each.path(index, seed)} was drawn with other settings, or is none "
                    "of ours, and would be replaced; pass another --output, or --overwrite"
                )


def draw_all(
    plan: Plan,
    pipe: Any,
    drawings: Sequence[Drawings],
    batch_size: int,
    team: Team,
    progress: Progress,
) -> dict[str, Speed]:
    """Draws this process's share of what is not there yet; returns, on the main process, how fast
    each was, by name.
    """
    speeds: dict[str, Speed] = {}
    for subject in plan.subjects:
        mine = [each for each in drawings if each.subject == subject.name]
        todo = {each.name: missing(each, team) for each in mine}
        for each in mine:
            progress(len(team.share(each.places())) - len(todo[each.name]))
        shown = plan.steps_of(subject) if plan.times and team.rank == 0 else ()
        asked = [each for each in mine if each.steps in shown]
        speeds |= {each.name: kept for each in asked if (kept := read_speed(each, batch_size))}
        timed = [each for each in asked if each.name not in speeds]
        if not timed and not any(todo.values()):
            continue
        with subject.sampling(pipe):
            settings, _ = settle_texts(pipe, plan.prompts, subject.settings, None)
            settings = settings.with_size(pipe)
            for each in mine:
                meter = Meter(pipe.unet) if each in timed else None
                draw(pipe, each, todo[each.name], settings, batch_size, progress, meter)
                if meter is not None:
                    speeds[each.name] = settle_speed(pipe, each, settings, batch_size, meter)
    return speeds


def settle_speed(
    pipe: Any, drawings: Drawings, settings: Settings, batch_size: int, meter: Meter
) -> Speed:
    """What was measured while pictures were drawn. The first are drawn once more where there were
    too few.
    """
    batch = planned(drawings, drawings.places()[: meter.batch_size or batch_size])
    while not meter.seconds:
        meter.measure(lambda: draw_with_latents(pipe, batch, settings), len(batch))
    write_speed(drawings, batch_size, meter.speed)
    return meter.speed


def missing(drawings: Drawings, team: Team) -> list[tuple[int, int]]:
    """What this process has yet to draw. The whole list is shared out, and not what is left of it:
    others write meanwhile.
    """
    places = team.share(drawings.places())
    return [place for place in places if not drawings.is_there(*place)]


def draw(
    pipe: Any,
    drawings: Drawings,
    places: Sequence[tuple[int, int]],
    settings: Settings,
    batch_size: int,
    progress: Progress,
    meter: Meter | None = None,
) -> None:
    """Draws pictures by (index of the prompt, seed), and keeps each."""
    for start in range(0, len(places), batch_size):
        batch = places[start : start + batch_size]
        call = partial(draw_with_latents, pipe, planned(drawings, batch), settings)
        pictures, latents = call() if meter is None else meter.measure(call, len(batch))
        for (index, seed), picture, latent in zip(batch, pictures, latents, strict=True):
            drawings.write(index, seed, picture, latent)
        progress(len(batch))


def planned(drawings: Drawings, places: Sequence[tuple[int, int]]) -> list[Planned]:
    """As the pipeline is asked for them."""
    return [
        Planned(drawings.rows[index] + 1, drawings.prompts[index], drawings.steps, seed)
        for index, seed in places
    ]


def draw_with_latents(
    pipe: Any, batch: Sequence[Planned], settings: Settings
) -> tuple[list[Any], Tensor]:
    """Pictures, and the latents [B, C, h, w] that they were decoded from, at unit scale."""
    kept: dict[str, Tensor] = {}

    def keep(pipe: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept["latents"] = values["latents"]
        return values

    pictures = draw_batch(pipe, batch, settings, callback_on_step_end=keep)
    return pictures, kept["latents"]
