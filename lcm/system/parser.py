"""Command lines: a mistake is one line that names what is near, a flag has both spellings, and
verbs have an example.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from textwrap import indent
from typing import Any, NoReturn

from lcm.system.registry import closest
from lcm.system.words import quoted


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are ValueErrors of one line. A flag with underscores may be written
    with dashes; it may not be cut short, since a flag to come could begin like it.

    `example` is a command that the help ends with. `others` are flags that people know from other
    programs -> what to use here, which counts where it is no flag or one of this command. A parser
    that sets `takes_rest=True` as a default leaves what it does not know to its caller; `fill` adds
    that to it, where a shell is told what there is.
    """

    def __init__(
        self, *, example: str = "", others: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.example, self.others = example, others or {}
        self.verbs: dict[str, Parser] = {}
        self.dest_of_verbs = ""
        self.fill: Callable[[Parser], object] | None = None
        self._negative_number_matcher = re.compile(r"-(\d|\.\d|inf|nan)")  # its own misses -1e-3

    def add_verb(self, name: str, help_line: str, dest: str = "verb", **options: Any) -> Parser:
        """A parser of what follows `name`, which parsing puts in `dest`; its help begins with the
        line.
        """
        if not self.verbs:
            self.dest_of_verbs = dest
            self._children = self.add_subparsers(dest=dest, metavar="VERB")
        about = f"{help_line[0].upper()}{help_line[1:]}."
        self.verbs[name] = self._children.add_parser(
            name, help=help_line, description=about, **options
        )
        return self.verbs[name]

    def actions(self) -> list[argparse.Action]:
        """What may be written behind this command, without what may behind its verbs."""
        return list(self._actions)

    def everything(self) -> Iterator[argparse.Action]:
        """What may be written behind this command and all of its verbs."""
        if self.fill is not None:
            self.fill(self)
        yield from self.actions()
        for verb in self.verbs.values():
            yield from verb.everything()

    def format_help(self) -> str:
        """The help of argparse, and the example."""
        example = f"\nexample:\n{indent(self.example, '  ')}\n" if self.example else ""
        return super().format_help() + example

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As argparse does. Raises ValueError for a verb or a flag that there is not; without a
        verb prints the help and leaves with status 2.
        """
        words = [self.spelt(word) for word in (sys.argv[1:] if args is None else args)]
        if self.verbs:
            self.check_verb(words)
        elif not self.get_default("takes_rest"):
            self.check_flags(words)
        found, rest = super().parse_known_args(words, namespace)
        if rest and not getattr(found, "takes_rest", False):
            raise self.unknown(rest[0])
        if self.verbs and getattr(found, self.dest_of_verbs) is None:
            self.print_help(sys.stderr)
            self.exit(2)
        return found, rest

    def spelt(self, word: str) -> str:
        """A flag of ours with underscores, however it was written."""
        name, equals, value = word.partition("=")
        ours = f"--{name[2:].replace('-', '_')}"
        is_ours = name.startswith("--") and ours in self._option_string_actions
        return f"{ours}{equals}{value}" if is_ours else word

    def check_verb(self, words: Sequence[str]) -> None:
        """Raises ValueError where the words begin with a verb that there is not."""
        if words and not words[0].startswith("-") and words[0] not in self.verbs:
            near = closest(words[0], self.verbs)
            raise ValueError(
                f"unknown verb {quoted(words[0])}; choose one of {', '.join(self.verbs)}.{near}"
            )

    def check_flags(self, words: Sequence[str]) -> None:
        """Raises ValueError for a flag that there is not, before argparse misses another one."""
        for word in itertools.takewhile(lambda word: word != "--", words):
            # argparse too takes what has a space in it for a text
            is_flag = word.startswith("--") and " " not in word
            if is_flag and word.partition("=")[0] not in self._option_string_actions:
                raise self.unknown(word)

    def unknown(self, word: str) -> ValueError:
        """The error for a word that nothing here takes: what to use instead, or what is near."""
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        if not word.startswith("-") or not name:
            return ValueError(
                f"unexpected word {quoted(word)} on the command line; values follow a --flag, and "
                "a text with spaces is put in quotes"
            )
        if f"--{name.lower()}" in self._option_string_actions:
            return ValueError(f"unknown flag {quoted(word)}; write --{name.lower()}")
        return self.unknown_name(name, "flag")

    def unknown_name(self, name: str, what: str) -> ValueError:
        """The error for a name that is no flag."""
        flags = [flag[2:] for flag in self._option_string_actions if flag.startswith("--")]
        ours = self.others.get(name)
        if ours is not None and (ours in flags or not ours.isidentifier()):
            return ValueError(f"unknown {what} {quoted(name)}: use {ours}")
        near = closest(name, flags) or f" {self.prog} --help lists all."
        return ValueError(f"unknown {what} {quoted(name)}.{near}")

    def error(self, message: str) -> NoReturn:
        """Raises ValueError: whoever parses prints it as any other mistake."""
        # "argument --a/--b: must be ..." as the sections of a configuration have it
        named = re.match(r"argument -*(\w+)[^\s:]*: (?=must |is |has |begins )", message)
        if named:
            raise ValueError(f"{named[1]} {message[named.end() :]}")
        raise ValueError(message.removeprefix("argument "))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Leaves when all that was printed has been read."""
        sys.stdout.flush()
        super().exit(status, message)
