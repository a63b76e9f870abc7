"""The verbs of the `lcm` command: one file and one line each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Protocol

from lcm.cli import (
    cache,
    convert,
    evaluate,
    generate,
    inspect,
    merge,
    play,
    push,
    repair,
    resize,
    verify,
)
from lcm.system.parser import Parser


class Verb(Protocol):
    """A module with these three names. Its file loads in no time: what is heavy is imported inside
    `run`.
    """

    @property
    def HELP(self) -> str:  # noqa: N802 - a constant of the module
        """One line, without a capital and a full stop."""

    @property
    def EXAMPLE(self) -> str:  # noqa: N802 - a constant of the module
        """A command that the help shows."""

    def configure(self, parser: Parser) -> None:
        """Adds arguments, each with its limits, or further verbs. One that sets `takes_rest=True`
        as a default is given what they do not know.
        """

    def run(self, args: argparse.Namespace, rest: Sequence[str]) -> int:
        """The exit status: 0, or 1 where something is wrong with a file. A mistake of the user is a
        ValueError or OSError that names the fix; it becomes one line and status 2.
        """


VERBS: dict[str, Verb] = {
    "generate": generate,
    "play": play,
    "evaluate": evaluate,
    "inspect": inspect,
    "verify": verify,
    "repair": repair,
    "convert": convert,
    "merge": merge,
    "resize": resize,
    "push": push,
    "cache": cache,
}
