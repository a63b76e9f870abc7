"""Latents, prompt embeddings and trajectories that are kept on disk."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lcm.system.console import tell
from lcm.system.parser import Parser
from lcm.system.words import file_path

HELP = "latents, prompt embeddings and trajectories that are kept on disk"
EXAMPLE = "lcm cache inspect"
BUILD = (
    "lcm cache build",
    "Encodes the pictures and prompts of a training command, without training: takes all of its "
    "flags, and writes to --latent_cache_dir, where the run with --cache_latents finds them.",
    "lcm cache build --pretrained_teacher_model stable-diffusion-v1-5/stable-diffusion-v1-5 \\\n"
    "  --train_data_dir photos/",
)
"""Its name, what it does, and an example, for the help."""


def configure(parser: Parser) -> None:
    from lcm.data.config import default_cache

    build = parser.add_verb(
        "build", "encode the data of a training command; takes its flags", "action", add_help=False
    )
    build.set_defaults(takes_rest=True)
    build.fill = add_training_flags
    for name, text in (
        ("inspect", "say what a cache holds"),
        ("verify", "compare every row with its checksum"),
    ):
        action = parser.add_verb(name, text, "action", example=f"lcm cache {name}")
        action.add_argument(
            "directory",
            type=file_path,
            nargs="?",
            default=default_cache(),
            help="default: %(default)s",
        )


def add_training_flags(parser: Parser) -> None:
    from lcm.config.command_line import add_flags, offer_words

    add_flags(parser)
    offer_words(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    if args.action == "build":
        return build(rest)
    return {"inspect": inspect, "verify": verify}[args.action](args.directory)


def inspect(directory: Path) -> int:
    """Prints what every folder of a cache holds. Returns 1 when there is none, or one does not say
    what it is.
    """
    from lcm.data.precomputed.rows import MANIFEST, manifest_of, stores

    found = list(stores(directory))
    for manifest, store in found:
        wrong = manifest_of(store.folder / MANIFEST)[1]
        facts = [f"{name} {value}" for name, value in manifest.items() if name != "kind"]
        what = wrong or f"{manifest['kind']}; {', '.join(facts)}"
        print(f"{store.folder}: {what}")
        print(f"  {len(store)} rows in {len(store.files)} files, {store.size() / 2**20:.1f} MiB")
    if not found:
        tell(f"error: there is no cache in {directory}; lcm cache build makes one")
    return 0 if found and all(manifest for manifest, _ in found) else 1


def verify(directory: Path) -> int:
    """Compares every row with its checksum. Returns 1 when one is damaged, a folder does not say
    what it is, or there is no cache.
    """
    from lcm.data.precomputed.rows import MANIFEST, manifest_of, stores

    found, remedies = list(stores(directory)), set()
    for manifest, store in found:
        wrong = manifest_of(store.folder / MANIFEST)[1]
        damaged = store.damaged()
        rows = sum(map(len, damaged.values()))
        if wrong:
            tell(f"error: {wrong}")
        if damaged:
            remedies.add(remedy(manifest.get("kind", "")))
        whole = sum(not rows for rows in damaged.values())
        state = f"{rows} rows damaged, {whole} files not readable" if damaged else "sound"
        print(f"{store.folder}: {len(store)} rows, {state}")
        for file, numbers in damaged.items():
            print(
                f"  {file.name}: "
                f"{'all of it' if not numbers else 'rows ' + ', '.join(map(str, numbers))}"
            )
    for text in sorted(remedies):
        tell(f"{text}, makes the damaged ones again")
    if not found:
        return inspect(directory)
    return int(bool(remedies) or not all(manifest for manifest, _ in found))


def remedy(kind: str) -> str:
    """Which command makes damaged rows of this kind again."""
    if kind == "trajectories":
        return "the next run of the command that they were drawn for"
    return "the next lcm cache build, or run with --cache_latents"


def build(flags: Sequence[str]) -> int:
    """Encodes the data of a training command without training."""
    from lcm.config.command_line import parse_config
    from lcm.config.help import Program
    from lcm.system.console import hide_loading_bars, log_plainly

    name, about, example = BUILD
    config = parse_config([*flags, "--cache_latents", "True"], Program(name, "", about, example))
    from lcm.training.setup import build_cache  # which loads PyTorch, as --help does not

    log_plainly()
    hide_loading_bars(config.teacher.path)
    build_cache(config)
    return 0
