"""What every command says of itself: its version, and how a shell completes it."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from typing import Any

from lcm.system.parser import Parser
from lcm.system.version import VERSION
from lcm.system.words import one_of

PACKAGE = "latent-consistency-toolkit"
BESIDE = ("torch", "diffusers", "transformers", "peft")
"""Packages whose versions decide what a command does."""
SHELLS = ("bash", "zsh", "tcsh", "fish")


def installed(package: str) -> str:
    """The version of a package, which is not imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def version(prog: str) -> str:
    """One line: the program and the packages that it stands on."""
    beside = ", ".join(f"{name} {installed(name)}" for name in BESIDE)
    return f"{prog} {VERSION} ({PACKAGE}; {beside}; Python {platform.python_version()})"


def completion(parser: Parser, shell: str) -> str:
    """A script by which a shell completes the words of a command. Raises ValueError without shtab,
    which writes it.
    """
    try:
        import shtab
    except ImportError as error:
        raise ValueError(
            "print_completion needs the package shtab, which writes the script; pip install shtab"
        ) from error
    for action in list(parser.everything()):
        if getattr(action.type, "__name__", "") in ("place", "file_path"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    script: str = shtab.complete(parser, shell)
    return script


class ShowVersion(argparse.Action):
    """Prints `version` and leaves."""

    def __call__(self, parser: Any, *_: Any) -> None:
        print(version(parser.prog))
        parser.exit()


class PrintCompletion(argparse.Action):
    """Prints `completion` and leaves."""

    def __call__(self, parser: Any, _namespace: Any, values: Any, _name: Any = None) -> None:
        parser.prog = self.const
        sys.stdout.write(f"{completion(parser, values)}\n")
        parser.exit()


def add_about(parser: Parser, command: str) -> None:
    """Adds --version and --print_completion, for what a shell knows as `command`."""
    parser.add_argument(
        "--version",
        action=ShowVersion,
        nargs=0,
        default=argparse.SUPPRESS,
        help="print the versions of the program and of what it stands on",
    )
    parser.add_argument(
        "--print_completion",
        action=PrintCompletion,
        type=one_of(*SHELLS),
        choices=SHELLS,
        const=command,
        default=argparse.SUPPRESS,
        help="print a script by which this shell completes the command",
    )
