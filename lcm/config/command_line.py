"""A configuration from the command line and from YAML: flags over the file over defaults."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import Field
from typing import Any

from lcm.config.help import TRAIN, Program, help_text
from lcm.config.names import unknown_name
from lcm.config.plugins import load_plugins
from lcm.config.run import FIELDS, TrainConfig
from lcm.config.yaml_file import read_yaml
from lcm.system.about import add_about
from lcm.system.flags import Flag, default_of, kind_of
from lcm.system.parser import Parser
from lcm.system.words import KINDS, file_path, place


class TrainParser(Parser):
    """The flags of training."""

    def __init__(self, program: Program) -> None:
        super().__init__(prog=program.name, add_help=False)
        self.program = program

    def format_help(self) -> str:
        """The flags in groups."""
        return help_text(self.program)

    def unknown_name(self, name: str, what: str) -> ValueError:
        """The error for a name that is no flag."""
        return unknown_name(name, what, ("config", "help", "version", "print_completion"))


class ShowHelp(argparse.Action):
    """Prints the help, all of it or what has to do with a word, and leaves."""

    def __call__(self, parser: Any, _namespace: Any, values: Any, _name: Any = None) -> None:
        print(*help_text(parser.program, values).splitlines(), sep="\n")
        parser.exit()


def options_of(f: Field[Any]) -> dict[str, Any]:
    """What argparse is told of a flag."""
    flag: Flag = f.metadata["flag"]
    kind, is_list = kind_of(f)
    read = place if flag.is_place and kind == "str" else KINDS[kind]
    options: dict[str, Any] = {
        "help": flag.help.replace("%", "%%"),
        "default": default_of(f),
        "type": read,
    }
    if flag.words:
        options["metavar"] = "NAME"
    if is_list:
        return {**options, "nargs": "+"}
    if kind == "bool":
        return {**options, "nargs": "?", "const": True}
    return options if flag.bare is None else {**options, "nargs": "?", "const": flag.bare}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds every flag of training."""
    for name, f in FIELDS.items():
        parser.add_argument(f"--{name}", *f.metadata["flag"].aliases, **options_of(f))
    parser.add_argument("--config", type=file_path, help="YAML file with any of these flags")


def offer_words(parser: Parser) -> None:
    """Tells a shell what each flag chooses from; whether a word is one of them the sections say."""
    for action in parser.actions():
        if action.dest in FIELDS and (words := FIELDS[action.dest].metadata["flag"].words):
            action.choices = words


def make_parser(program: Program = TRAIN) -> TrainParser:
    """A parser of every flag and of those of a command."""
    parser = TrainParser(program)
    parser.fill = offer_words
    add_flags(parser)
    parser.add_argument(
        *("-h", "--help"), action=ShowHelp, nargs="?", default=argparse.SUPPRESS, help="print this"
    )
    if program.command:
        add_about(parser, program.command)
    return parser


def plugins_in(argv: Sequence[str]) -> list[str]:
    """The values of --plugin on a command line."""
    parser = Parser(add_help=False)
    parser.set_defaults(takes_rest=True)
    parser.add_argument("--plugin", nargs="+", default=[])
    plugins: list[str] = parser.parse_known_args(argv)[0].plugin
    return plugins


def parse_config(argv: Sequence[str] | None = None, program: Program = TRAIN) -> TrainConfig:
    """Flags over --config file over defaults. Raises ValueError for anything unknown or
    contradictory.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    load_plugins(plugins_in(words))  # so that --help and errors name what they add
    parser = make_parser(program)
    known = parser.parse_args(words)
    if known.config is not None:
        parser.set_defaults(**read_yaml(known.config))
        known = parser.parse_args(words)
    values = vars(known)
    values.pop("config")
    return TrainConfig.of(**values)
