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
from lcm.inference.generate import Settings, draw_batch
from lcm.inference.planned import Planned
from lcm.inference.texts import settle_texts
from lcm.system.processes import Team

Places = Sequence[tuple[int, int]]
"""Pictures by (index of the prompt, seed)."""
Call = tuple[Drawings, Places]
"""Pictures that are drawn together."""
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


def share_of(drawings: Sequence[Drawings], batch_size: int, team: Team) -> Sequence[Call]:
    """What this process draws. The whole list is shared out, and not what is left of it: others
    write meanwhile. A batch stays whole, so that its pictures are the same on any number of them.
    """
    return team.share([(each, batch) for each in drawings for batch in each.batches(batch_size)])


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
    share = share_of(drawings, batch_size, team)
    for subject in plan.subjects:
        mine = [each for each in drawings if each.subject == subject.name]
        todo: dict[str, list[Places]] = {each.name: [] for each in mine}
        for each, batch in share:
            if each.subject == subject.name:
                lacking = missing(each, batch)
                progress(len(batch) - len(lacking))
                if lacking:
                    todo[each.name].append(batch)
        shown = plan.steps_of(subject) if plan.times and team.rank == 0 else ()
        asked = {each.name: min(batch_size, each.pictures) for each in mine if each.steps in shown}
        for each in mine:
            if each.name in asked and (kept := read_speed(each, asked[each.name])) is not None:
                speeds[each.name] = kept
                del asked[each.name]
        if not asked and not any(todo.values()):
            continue
        with subject.sampling(pipe):
            settings, _ = settle_texts(pipe, plan.prompts, subject.settings, None)
            settings = settings.with_size(pipe)
            for each in mine:
                meter = Meter(pipe.unet, asked[each.name]) if each.name in asked else None
                draw(pipe, each, todo[each.name], settings, progress, meter)
                if meter is not None:
                    speeds[each.name] = settle_speed(pipe, each, settings, meter)
    return speeds


def settle_speed(pipe: Any, drawings: Drawings, settings: Settings, meter: Meter) -> Speed:
    """What was measured while pictures were drawn. The first call is made once more where there
    were too few of its size.
    """
    batch = planned(drawings, drawings.batches(meter.batch_size)[0])
    while not meter.seconds:
        meter.measure(lambda: draw_with_latents(pipe, batch, settings), len(batch))
    write_speed(drawings, meter.speed)
    return meter.speed


def missing(drawings: Drawings, batch: Places) -> list[tuple[int, int]]:
    """What of a batch has yet to be drawn."""
    return [place for place in batch if not drawings.is_there(*place)]


def draw(
    pipe: Any,
    drawings: Drawings,
    batches: Sequence[Places],
    settings: Settings,
    progress: Progress,
    meter: Meter | None = None,
) -> None:
    """Draws pictures by (index of the prompt, seed), and keeps those that are not there."""
    for batch in batches:
        lacking = missing(drawings, batch)
        call = partial(draw_with_latents, pipe, planned(drawings, batch), settings)
        pictures, latents = call() if meter is None else meter.measure(call, len(batch))
        for place, picture, latent in zip(batch, pictures, latents, strict=True):
            if place in lacking:
                drawings.write(*place, picture, latent)
        progress(len(lacking))


def planned(drawings: Drawings, places: Places) -> list[Planned]:
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
