"""report.html: one page that shows a run, without a network or anything beside it."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup, escape

from lcm.adapter.recipe import Recipe
from lcm.config.run import TrainConfig
from lcm.outputs.folder import REPORT_NAME
from lcm.outputs.gauges import is_of_grid
from lcm.outputs.metrics import read_metrics, read_updates
from lcm.publish.code import Code, Models, view_from_here
from lcm.publish.outcome import duration, read_data_report, seconds_of
from lcm.publish.pages import page_environment
from lcm.publish.report import data
from lcm.publish.report.curves import FAINT, WIDE, Series, chart, colour_of, smooth
from lcm.publish.report.gauges import gauge_series, gauge_table
from lcm.publish.report.pictures import grids, is_teacher, progress
from lcm.publish.report.points import points
from lcm.publish.usage import advice
from lcm.publish.wording import title, wording
from lcm.system.about import installed
from lcm.system.atomic import replacing
from lcm.system.device import found, name_of
from lcm.system.paths import write_text
from lcm.system.text import count, prompt_words, shown_lines

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "datasets", "safetensors")
Pairs = list[tuple[str, Any]]
QUARTER = re.compile(r"loss_t_\d+_\d+")
"""A column of the loss by timestep; the other losses are those of terms and critics."""


def write_page(
    output_dir: Path,
    config: TrainConfig,
    settings: dict[str, Any],
    recipe: Recipe,
    prompts: Sequence[str],
    *,
    processes: int,
    finished: bool,
) -> None:
    """Writes report.html of what `output_dir` holds by now. `settings` are the flat ones, as the
    run resolved them; `prompts` are the rows of its grids.
    """
    words, validation = wording(config.adapter), config.validation
    file = config.output.weights_file if words.is_adapter else None
    view = view_from_here(str(output_dir.absolute()))
    made = Code(recipe, Models.of(config.teacher), file, validation.validation_seed, prompts[0])
    lines = read_updates(output_dir)
    gauges = [line for line in read_metrics(output_dir) if is_of_grid(line)]
    pictures, large, left_out = grids(output_dir, finished)
    report = read_data_report(output_dir)
    page = template().render(
        title=title(recipe, words),
        state=state(lines, settings["max_train_steps"], finished),
        updates=settings["max_train_steps"],
        done=lines[-1]["step"] if lines else 0,
        numbers=numbers(lines),
        last=pictures[-1] if pictures else None,
        large=large,
        before=pictures[:-1],
        over_time=progress(pictures),
        left_out=left_out,
        prompts=list(map(prompt_words, prompts)),
        charts=charts(lines, gauge_series(gauges)),
        gauges=gauge_table(gauges),
        teacher=how_the_teacher_drew(config, recipe),
        wide=WIDE,
        draws=validation.draws,
        finished=finished,
        snippet=made.snippet(view),
        advice=paragraphs(advice(made, view, words, config.adapter.w_embedding)),
        data=data.facts(report),
        samples=data.samples(output_dir),
        frames=data.about_frames(report),
        dropped=data.left_out(report),
        recipe=table(asdict(recipe)),
        objective=config.method.objective,
        changed=table(config.changes(settings)),
        settings=table(dict(sorted(settings.items()))),
        environment=environment(config.loop.mixed_precision, processes),
    )
    # somebody may have it open, or ask for it, at any moment
    with replacing(output_dir / REPORT_NAME) as partial:
        write_text(partial, page)


def template() -> Any:
    """The page."""
    surroundings = page_environment(Path(__file__).parent)
    surroundings.filters["ticks"] = lambda text: Markup(
        re.sub(r"(`+) ?(.+?) ?\1", r"<code>\2</code>", str(escape(shown_lines(text))))
    )
    surroundings.tests["teachers"] = is_teacher
    return surroundings.get_template("page.html")


def shown(value: Any) -> str:
    """The value of a setting as text, "-" for none."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items()) or "-"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def table(values: dict[str, Any]) -> Pairs:
    """The rows of a table, names and their values as text."""
    return [(name, shown(value)) for name, value in values.items()]


def paragraphs(text: str) -> list[str]:
    """The lines of a text that are not empty."""
    return [line for line in text.splitlines() if line]


# --- curves ---------------------------------------------------------------------------------------


def charts(
    lines: list[dict[str, Any]], gauges: Sequence[tuple[str, list[Series]]] = ()
) -> list[dict[str, Any]]:
    """Title, svg and legend of every curve that has a point: those of the `gauges`, and of the
    lines of updates. `is_main` are those to look at first.
    """
    reach = len(lines) // 40
    many = f"mean of {2 * reach + 1} lines"
    columns = sorted({name for line in lines for name in line if name.startswith("loss_")})
    quarters = [name for name in columns if QUARTER.fullmatch(name)]
    by_time = [Series(times_of(name), smooth(points(lines, name), reach)) for name in quarters]
    rest = [name for name in columns if name not in quarters]

    def curves(name: str) -> list[Series]:
        """Each line of a loss, and a mean where there are many."""
        own = points(lines, name)
        smoothed = [Series("each line", own, True), Series(many, smooth(own, reach))]
        return smoothed if reach else [Series(name, own)]

    first = [*gauges, ("loss", curves("loss"))]
    more: list[tuple[str, list[Series]]] = [
        (f"loss by timestep{f', {many}' if reach else ''}", by_time),
        *((f"loss of {name.removeprefix('loss_')}", curves(name)) for name in rest),
        ("gradient norm, before clipping", [Series("grad_norm", points(lines, "grad_norm"))]),
        (
            "distance of the weights from the teacher's",
            [Series("delta_norm", points(lines, "delta_norm"))],
        ),
        ("learning rate", [Series("lr", points(lines, "lr"))]),
        ("images per second", [Series("samples_per_second", points(lines, "samples_per_second"))]),
    ]
    return [
        {"title": title, "svg": svg, "legend": legend(series), "is_main": number < len(first)}
        for number, (title, series) in enumerate([*first, *more])
        if (svg := chart(title, series)) is not None
    ]


def times_of(name: str) -> str:
    """The timesteps of a column of metrics.jsonl in words: "t 0 to 249" for loss_t_000_249."""
    low, high = map(int, name.split("_")[2:])
    return f"t {low} to {high}"


def legend(series: list[Series]) -> list[dict[str, Any]]:
    """Name, last value and look of every series; colours are counted as `chart` counts them."""
    entries, colour = [], 0
    for s in series:
        last = f"{s.points[-1][1]:.4g}" if s.points else "-"
        look = {"colour": colour_of(s, colour), "opacity": FAINT if s.is_faint else 1}
        entries.append({"name": s.name, "last": last, **look})
        colour += not (s.is_faint or s.is_reference)
    return entries


# --- facts ----------------------------------------------------------------------------------------


def state(lines: list[dict[str, Any]], updates: int, finished: bool) -> str:
    """How far the run is, in a sentence."""
    step = lines[-1]["step"] if lines else 0
    if finished:
        return f"Finished: {updates} updates."
    return f"Under way: {step} of {updates} updates when this page was written."


def numbers(lines: list[dict[str, Any]]) -> Pairs:
    """The numbers of the last line, and the time that all of them took."""
    if not lines:
        return []
    last = lines[-1]
    wanted = [
        ("passes over the data", last.get("epoch"), "{:.4g}"),
        ("images per second", last.get("samples_per_second"), "{:.4g}"),
        ("peak memory", last.get("peak_memory_gib"), "{:.4g} GiB"),
        ("loss", last.get("loss"), "{:.4g}"),
    ]
    told = [
        (name, form.format(value)) for name, value, form in wanted if isinstance(value, int | float)
    ]
    return [("training alone", duration(seconds_of(lines))), *told]


def how_the_teacher_drew(config: TrainConfig, recipe: Recipe) -> str | None:
    """The teacher in the grids, in words; None where it draws nothing."""
    steps = config.validation.validation_teacher_steps
    if not (steps and config.validation.draws):
        return None
    guidance = recipe.teacher_guidance(told=config.adapter.w_embedding)
    return f"the teacher drew in {count(steps, 'step')} with guidance_scale {guidance:g}"


def environment(precision: str, processes: int) -> Pairs:
    """The machine and the libraries. No environment variables, which hold tokens."""
    device = found()
    threads = f"none, CPU with {torch.get_num_threads()} threads"
    gpu = threads if device.type == "cpu" else name_of(device)
    return [
        ("GPU", gpu),
        ("processes", processes),
        ("mixed_precision", precision),
        ("platform", platform.platform()),
        ("python", platform.python_version()),
        *((name, installed(name)) for name in LIBRARIES),
    ]
