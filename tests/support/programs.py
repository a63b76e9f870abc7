"""The programs that a page of the documentation names: their flags are parsed, or they are run."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

import lcm.cli.main
import train_lcm_lora
from benchmarks.gpu import __main__ as card
from examples.worlds import add_world_flag
from lcm.cli import VERBS
from lcm.config.command_line import make_parser, parse_config
from lcm.config.names import spellings
from tests.support import ROOT
from tests.support.launches import forget_launch


class Parsed(Exception):  # noqa: N818 - not an error
    """Raised instead of running a program whose flags were understood."""


@contextlib.contextmanager
def only_parsed(name: str) -> Iterator[None]:
    """Inside the block programs stop when they have read their flags. Raises AssertionError for one
    that reads none.
    """
    read = argparse.ArgumentParser.parse_known_args

    def parse_args(parser: argparse.ArgumentParser, args: Sequence[str] | None = None) -> None:
        _, rest = read(parser, args)
        assert rest == [], f"{name} has no {' '.join(rest)}"
        raise Parsed

    def parse_known_args(
        parser: argparse.ArgumentParser, args: Sequence[str] | None = None
    ) -> None:
        _, rest = read(parser, args)
        # handed on to training
        assert {word[2:] for word in rest if word.startswith("--")} <= spellings().keys(), rest
        raise Parsed

    patched = mock.patch.multiple(
        argparse.ArgumentParser, parse_args=parse_args, parse_known_args=parse_known_args
    )
    with patched, contextlib.suppress(Parsed):
        yield
        raise AssertionError(f"{name} reads no flags")


ANSWERS = {"--help", "--version", "--print_completion"}
"""Flags that are answered instead of anything else."""


def answer(main: Callable[[list[str]], int], words: list[str]) -> None:
    """Asks a program about itself. The script of a shell is left to the package that writes it."""
    with mock.patch("lcm.system.about.completion", return_value=""):
        try:
            status = main(words)
        except SystemExit as stop:
            status = int(stop.code or 0)
    assert status == 0, words


def train(words: list[str], run: bool) -> None:
    if ANSWERS & set(words):
        return answer(train_lcm_lora.main, words)
    if not run:
        if "..." not in words:
            parse_config(words)
        return None
    forget_launch()
    assert train_lcm_lora.main(words) == 0
    return None


def accelerate(words: list[str], run: bool) -> None:
    assert words[0] == "launch"
    launch = launch_command_parser().parse_args(words[1:])
    assert launch.training_script == "train_lcm_lora.py"
    train(launch.training_script_args, run)


def torchrun(words: list[str], run: bool) -> None:
    train(get_args_parser().parse_args(words).training_script_args, run)


def lcm_command(words: list[str], run: bool) -> None:
    if ANSWERS & set(words):
        return answer(lcm.cli.main.main, words)
    if run:
        assert lcm.cli.main.main(words) == 0
        return None

    def parsed(args: argparse.Namespace, rest: Sequence[str]) -> int:
        if rest:
            # the verbs that take what they do not know take the flags of training
            parse_config(rest)
        return 0

    with mock.patch.object(VERBS.get(words[0]), "run", parsed):
        assert lcm.cli.main.main(words) == 0
    return None


def python(words: list[str], run: bool) -> None:
    if words[0] == "train_lcm_lora.py":
        return train(words[1:], run)
    name = words[1] if words[0] == "-m" else words[0].removesuffix(".py").replace("/", ".")
    if name in ("venv", "pytest", "tests.soak"):
        return None
    module, argv = importlib.import_module(name), words[2 if words[0] == "-m" else 1 :]
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    with mock.patch.object(sys, "argv", [name, *argv]):
        if run:
            assert not module.main()
        elif "ArgumentParser" not in Path(str(module.__file__)).read_text(encoding="utf-8"):
            assert argv == []
        else:
            with only_parsed(name):
                module.main()
    return None


def make(words: list[str], run: bool) -> None:
    targets = re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text())
    names = {word for word in words if "=" not in word}  # the others are variables
    assert targets is not None and names <= set(targets[1].split()), words


def pip(words: list[str], run: bool) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for extra in re.findall(r"\[(.*?)\]", " ".join(words)):
        assert set(extra.split(",")) <= set(extras), extra


def known(words: list[str], run: bool) -> None:
    """A command of the shell, of which nothing is checked."""
    assert not run


PROGRAMS: dict[str, Callable[[list[str], bool], None]] = {
    **{
        "lcm": lcm_command,
        "train-lcm-lora": train,
        "accelerate": accelerate,
        "torchrun": torchrun,
        "python": python,
        "python3": python,
    },
    **{"make": make, "pip": pip, ".": known, "hf": known, "mkdir": known},
}


def program(words: list[str]) -> Callable[[list[str], bool], None]:
    name = words[0]
    return known if "/" in name and os.access(ROOT / name, os.X_OK) else PROGRAMS[name]


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The names of the flags of a parser and of its verbs."""
    for action in parser._actions:
        yield from (
            option[2:].replace("-", "_")
            for option in action.option_strings
            if option.startswith("--")
        )
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from options(child)


def known_flags() -> set[str]:
    """The parsers of training, of every verb, of the launchers, of the benchmark of a card, and
    what the commands of picture worlds have in common.
    """
    of_worlds = argparse.ArgumentParser()
    add_world_flag(of_worlds)
    return {
        *options(of_worlds),
        *options(card.make_parser()),
        *options(make_parser()),
        *options(lcm.cli.main.make_parser()),
        *options(launch_command_parser()),
        *options(get_args_parser()),
    }
