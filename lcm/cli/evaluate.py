"""How good the pictures of adapters are, beside the teacher's."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lcm.cli.arguments import (
    add_adapters,
    add_base,
    add_device,
    add_sizes,
    load_pipe,
    read_adapters,
)
from lcm.system.console import is_main, tell
from lcm.system.flags import within
from lcm.system.words import file_path, number, text, whole

if TYPE_CHECKING:
    from pathlib import Path

    from lcm.evaluation.plan import Plan
    from lcm.evaluation.reasons import Reason

HELP = (
    "measure the pictures of adapters beside the teacher's: numbers, a page, a block for the card"
)
EXAMPLE = (
    "lcm evaluate --base someone/sd15 --adapter out/ other/ \\\n"
    "  --steps 1 2 4 8 --output evaluation/"
)
SEEDS = (0, 1)


@dataclass(frozen=True)
class Order:
    """What is asked for: the drawings of a `plan`, and of these the metrics `names`, with the
    `weights` of --metric_weights. `real` are the pictures of --reference_dir; `left_out` says why
    a metric is not measured.
    """

    plan: Plan
    names: Sequence[str]
    left_out: dict[str, Reason]
    weights: Path | None
    real: Sequence[Path] | None


def configure(parser: argparse.ArgumentParser) -> None:
    add_base(parser, "the teacher, which the adapters are attached to", required=True)
    add = parser.add_argument
    measured = ", each measured alone and compared with the first"
    add_adapters(parser, f"{measured}; one may have several weights", required=True)
    positive = within(whole, at_least=1, at_most=1000)
    add(
        "--steps",
        type=positive,
        nargs="+",
        action="extend",
        help="inference steps; default: 1 2 4 8",
    )
    add_prompts(parser)
    add_teacher(parser, positive)
    add_metrics(parser)
    add_drawing(parser)


def add_prompts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--prompts",
        type=file_path,
        metavar="FILE",
        help="text file, one prompt a line, or .csv, .tsv, .jsonl, .json; default: 200 of our own",
    )
    add("--prompt_column", type=text, help="the column of --prompts; default: prompt, else caption")
    add("--max_prompts", type=within(whole, at_least=2, at_most=10**6), help="evenly spread")
    add(
        "--seeds",
        type=within(whole, at_least=0, at_most=2**63 - 1),
        nargs="+",
        action="extend",
        help="a picture of every prompt from each; default: 0 1",
    )


def add_teacher(parser: argparse.ArgumentParser, positive: Any) -> None:
    add = parser.add_argument
    add(
        "--teacher_steps",
        type=positive,
        default=40,
        help="of the teacher's own pictures, by DDIM; default: 40",
    )
    add(
        "--guidance_scale",
        type=within(number, at_least=0, at_most=1000),
        help="of the teacher; default: what the first adapter was trained with",
    )


def add_metrics(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--metrics",
        type=text,
        nargs="+",
        action="extend",
        metavar="NAME",
        help="default: all whose weights are here",
    )
    add(
        "--metric_weights",
        type=file_path,
        metavar="DIR",
        help="folder of the weights that metrics need; also looked for in the cache of the hub",
    )
    add(
        "--reference_dir",
        type=file_path,
        metavar="DIR",
        help="real pictures, to measure the distance of sets to these too",
    )
    add("--plugin", type=text, nargs="+", action="extend", help="files that add metrics of yours")


def add_drawing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--scheduler",
        type=text,
        help="for adapters without a recipe, such as LCMScheduler for an LCM-LoRA from elsewhere",
    )
    add_sizes(parser, "what the adapters were trained at")
    add_device(parser)
    add(
        "--output",
        type=file_path,
        required=True,
        metavar="DIR",
        help="folder of evaluation.json, evaluation.html, card.md and all pictures; the same "
        "command goes on where an earlier one ended",
    )
    add("--overwrite", action="store_true", help="replace pictures of other settings")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from lcm.config.plugins import load_plugins
    from lcm.evaluation import prompt_lists
    from lcm.evaluation.evaluation import check_ways, real_pictures
    from lcm.evaluation.metrics import METRICS
    from lcm.evaluation.plan import Plan
    from lcm.evaluation.scoring import choose, look
    from lcm.evaluation.subjects import make_subjects
    from lcm.inference.generate import look_up_all

    load_plugins(args.plugin or [])
    names = choose(args.metrics)
    real = real_pictures(args.reference_dir)
    prompts = prompt_lists.read(args.prompts, args.prompt_column, args.max_prompts)
    steps = sorted(set(args.steps or (1, 2, 4, 8)))
    adapters = read_adapters(args.adapter)
    subjects = make_subjects(
        adapters,
        look_up_all(path for path, _ in adapters),
        steps=steps,
        scheduler=args.scheduler,
        guidance_scale=args.guidance_scale,
        size=(args.height, args.width),
    )
    seeds = list(dict.fromkeys(args.seeds or SEEDS))
    left_out = look(names, args.metric_weights, len(seeds))
    names = [name for name in names if name not in left_out]
    if not names:
        if is_main():
            tell_left_out(left_out)
        raise ValueError("metrics: none of these can be measured here; see above what is missing")
    check_ways(args.output, args.overwrite)
    plan = Plan(
        *(args.output, subjects, prompts, seeds, steps, args.teacher_steps),
        has_curve="teacher_steps" in names,
        times=any(METRICS[name].group == "cost" for name in names),
    )
    return carry_out(args, Order(plan, names, left_out, args.metric_weights, real))


def carry_out(args: argparse.Namespace, order: Order) -> int:
    """Draws with the processes of this launch, and measures on the first of them."""
    from lcm.evaluation.launch import launched, locked
    from lcm.formats.misfit import check_widths
    from lcm.inference.devices import choose_dtype
    from lcm.system.device import empty_cache

    located = [each.found for each in order.plan.subjects if each.found is not None]
    check_widths(args.base, [found.file for found in located if found.file is not None])
    with launched(args.device) as (team, device), locked(args.output, team):
        dtype = choose_dtype(args.dtype, device)
        pipe = load_pipe(args, dtype).to(device)
        pipe.set_progress_bar_config(disable=True)
        if team.rank == 0:
            tell_left_out(order.left_out)
        drawings, speeds = draw(args, order.plan, pipe, team)
        team.wait()
        if team.rank > 0:
            return 0
        facts = facts_of(args, device, dtype)
        del pipe  # which makes room for the networks that look at pictures
        empty_cache(device)
        return score(order, drawings, speeds, facts)


def draw(args: argparse.Namespace, plan: Plan, pipe: Any, team: Any) -> tuple[Any, Any]:
    """What was drawn, and how fast."""
    from tqdm.auto import tqdm

    from lcm.evaluation.sampling import check_places, draw_all, prepare_drawings, share_of

    say = tell if team.rank == 0 else (lambda line: None)
    drawings = team.together(lambda: prepare_drawings(plan, pipe, say))
    team.check_same(tuple(each.identity for each in drawings), "base and adapters", "files")
    if not args.overwrite:
        team.together(lambda: check_places(drawings))
    total = sum(len(batch) for _, batch in share_of(drawings, args.batch_size, team))
    with tqdm(
        total=total,
        unit="picture",
        desc="drawing",
        disable=team.rank > 0 or not sys.stderr.isatty(),
        dynamic_ncols=True,
    ) as bar:
        speeds = team.together(
            lambda: draw_all(plan, pipe, drawings, args.batch_size, team, bar.update)
        )
    return drawings, speeds


def score(order: Order, drawings: Any, speeds: Any, facts: Any) -> int:
    """Measures, and writes all that comes of it. The status is 1 where a metric failed."""
    from tqdm.auto import tqdm

    from lcm.evaluation.card_block import write_card
    from lcm.evaluation.evaluation import PAGE_NAME, evaluate, heading, write
    from lcm.evaluation.features import FOLDER, Features
    from lcm.evaluation.page import write_page
    from lcm.evaluation.tables import plain_lines

    plan, names = order.plan, order.names
    features = Features(plan.folder / FOLDER, order.weights, facts.device)
    with tqdm(
        total=len(names), unit="metric", desc="measuring", disable=not sys.stderr.isatty()
    ) as bar:
        found, failed = evaluate(plan, drawings, speeds, names, features, order.real, bar.update)
    tell_left_out(failed)
    left_out = {name: why.public for name, why in {**order.left_out, **failed}.items()}
    content = {**heading(plan, facts, drawings), **found, "left_out": left_out}
    write(plan.folder, content)
    write_card(plan.folder, content)
    write_page(plan, drawings, content)
    for line in [*plain_lines(content), plan.folder / PAGE_NAME]:
        print(line)
    return int(bool(failed))


def facts_of(args: argparse.Namespace, device: Any, dtype: Any) -> Any:
    """What is told of the evaluation beside its numbers."""
    from lcm.evaluation.evaluation import Facts

    return Facts(
        base=args.base,
        prompts_from="built-in" if args.prompts is None else args.prompts.name,
        real_from=None if args.reference_dir is None else str(args.reference_dir),
        device=device,
        dtype=str(dtype).removeprefix("torch."),
    )


def tell_left_out(reasons: dict[str, Reason]) -> None:
    """Says, once for all metrics with the same reason, why they are not measured."""
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, why in reasons.items() if why == reason]
        tell(f"left out: {', '.join(names)}: {reason.told}")
