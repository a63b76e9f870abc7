"""What `--help` says of the flags of training: in groups, each once, with its choices and its
default; `--help WORD` those flags alone that have to do with the word.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import Field, dataclass
from textwrap import fill, indent, wrap
from typing import Any

from lcm.config.run import FIELDS, NAMES, SECTIONS
from lcm.system.flags import Flag, default_of, kind_of
from lcm.system.registry import closest
from lcm.system.words import quoted

ORDER = (
    *("teacher", "adapter", "data", "samples", "cache", "method", "optimizer", "loop"),
    *("validation", "output", "hub"),
)
"""The sections as a run is thought of."""
OF_THE_COMMAND = {
    "--config FILE": "YAML file of `name: value` lines for any of these flags; flags win over it",
    "--help [WORD]": "print this, or what of it has to do with a word, such as cache",
    "--version": "print the versions of the program and of what it stands on",
    "--print_completion SHELL": "print a script by which bash, zsh, tcsh or fish completes flags",
}
"""Flags that are no settings of a run."""
OF_A_SHELL = ("--version", "--print_completion SHELL")
"""Those that a command has and a verb of another has not."""
NOTE = (
    "A flag that is on or off stands bare (--random_flip) or takes true or false, and is off "
    "by default. Names may have dashes (--lora-rank). `...` is for several values with spaces "
    "between. --help WORD prints only the flags that have to do with a word."
)


@dataclass(frozen=True)
class Program:
    """A command that takes the flags of training: how it is called, and what it does.

    `name` is what its help calls it, `command` what a shell completes: nothing for a verb.
    """

    name: str
    command: str
    about: str
    example: str


TRAIN = Program(
    "train_lcm_lora.py",
    "train-lcm-lora",
    "Trains a small file, an LCM-LoRA, with which a Stable Diffusion model draws in 1 to 8 steps "
    "instead of 25 to 50. It takes the model, and pictures with captions or prompts alone; "
    "everything goes to --output_dir: the LoRA, a page with pictures on the way, a card with the "
    "lines to use it. The same command goes on where it stopped. --dry_run says first what the "
    "run takes of time, memory and disk.",
    "accelerate launch train_lcm_lora.py --mixed_precision fp16 \\\n"
    "  --pretrained_teacher_model stable-diffusion-v1-5/stable-diffusion-v1-5 \\\n"
    "  --train_data_dir photos/ --output_dir out/",
)


def help_text(program: Program, word: str | None = None) -> str:
    """The help, as wide as the terminal. Raises ValueError where nothing has to do with `word`."""
    width = max(shutil.get_terminal_size().columns - 2, 50)
    groups = list(found(program, word, width))
    if word is not None:
        if not groups:
            near = closest(key(word), FIELDS) or f" {program.name} --help lists all."
            raise ValueError(
                f"no flag of {program.name} has {quoted(word)} in its name or help.{near}"
            )
        return "\n\n".join(groups) + "\n"
    usage = f"{program.name} --pretrained_teacher_model MODEL --train_data_dir FOLDER [flags]"
    start = [
        fill(f"usage: {usage}", width, subsequent_indent=" " * 7, break_on_hyphens=False),
        fill(program.about, width, break_on_hyphens=False),
        f"example:\n{indent(program.example, '  ')}",
        fill(NOTE, width, break_on_hyphens=False),
    ]
    return "\n\n".join([*start, *groups]) + "\n"


def found(program: Program, word: str | None, width: int) -> Iterator[str]:
    """The groups, without flags that have nothing to do with `word`."""
    for section in ORDER:
        title = (SECTIONS[section].__doc__ or "").partition(".")[0]
        flags = {head(name, FIELDS[name]): text_of(FIELDS[name]) for name in NAMES[section]}
        yield from group(f"[{section}] {title}", flags, word, width)
    ours = {f: t for f, t in OF_THE_COMMAND.items() if program.command or f not in OF_A_SHELL}
    yield from group("[command line] Besides the settings of a run", ours, word, width)


def group(title: str, flags: dict[str, str], word: str | None, width: int) -> Iterator[str]:
    """The lines of a group, nothing where none of its flags has to do with `word`."""
    lines = [
        line
        for flag, text in flags.items()
        if word is None or key(word) in flag.lower() or word.lower() in text.lower()
        for line in entry(flag, text, width)
    ]
    if lines:
        yield "\n".join([title, *lines])


def key(word: str) -> str:
    """A word as names of flags have it."""
    return word.lower().lstrip("-").replace("-", "_")


def entry(flag: str, text: str, width: int) -> Iterator[str]:
    """A flag in the left column, its text in the right one."""
    column = 36 if width >= 100 else 28
    lines = wrap(text, width - column, break_on_hyphens=False)
    if len(flag) + 4 > column:
        yield f"  {flag}"
    else:
        yield f"  {flag}".ljust(column) + lines.pop(0)
    yield from (" " * column + line for line in lines)


def head(name: str, field: Field[Any]) -> str:
    """A flag and the kind of value it takes."""
    flag: Flag = field.metadata["flag"]
    kind, is_list = kind_of(field)
    value = {"bool": "", "int": "N", "float": "X"}.get(kind)
    if value is None:
        value = "PATH" if flag.is_place else "NAME" if flag.words else "TEXT"
    return f"--{name} {value}{' ...' if is_list else ''}".rstrip()


def text_of(field: Field[Any]) -> str:
    """What a flag is for, what it may be, what it is when left out, and its other names."""
    flag: Flag = field.metadata["flag"]
    words = f"; one of {', '.join(flag.words)}" if flag.words else ""
    default = default_words(field)
    aliases = f" (also {', '.join(flag.aliases)})" if flag.aliases else ""
    return f"{flag.help}{words}{f' (default: {default})' if default else ''}{aliases}"


def default_words(field: Field[Any]) -> str:
    """What a flag is when it is left out; nothing for one that is off, or that is nothing then."""
    flag: Flag = field.metadata["flag"]
    value = default_of(field)
    if flag.unset is not None:
        return flag.unset
    if kind_of(field)[0] == "bool":
        return ""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)
