"""Reads a page of the documentation and does what it says.

A page is followed from its first block to its last, in one folder and with one set of Python
variables:

- `python` blocks are run; after `<!-- not run: REASON -->` they are compiled only.
- `bash` blocks are parsed, every command by the parser of its program;
  after `<!-- run -->` they are run.
- a `yaml` or `python` block that begins with `# NAME.yaml` or `# NAME.py` is written to that file.
- a command with flags inside a sentence is parsed.
- a `text` block after `<!-- output -->` is what the block before it has printed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState, GradientState
from torch.distributed.run import get_args_parser

import lcm.cli.main
import train_lcm_lora
from lcm.cli import VERBS
from lcm.config.command_line import parse_config, spellings
from lcm.data.sources import SOURCES
from lcm.diffusion.tables import LOSSES, SOLVERS
from lcm.methods import METHODS
from lcm.training.metrics import METRICS
from tests.support import ROOT

DOCUMENTS = (
    "README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    *(
        "benchmarks/README.md",
        "examples/shapes/README.md",
        "examples/shapes/community/README.md",
        "examples/accelerate/README.md",
    ),
)
FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
INLINE = re.compile(r"`((?:python -m|lcm|accelerate launch|torchrun) [^`]*--[^`]*)`")
"""A command with flags inside a sentence."""
MARKS = {
    "": ("python", "bash", "yaml", "text", ""),
    "run": ("bash",),
    "output": ("text",),
    "not run": ("python",),
}


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    mark: str
    line: int


def blocks(document: str) -> Iterator[Block]:
    """The fenced blocks of a page. Raises ValueError for a mark or language without a meaning."""
    page = (ROOT / document).read_text(encoding="utf-8")
    for fence in FENCE.finditer(page):
        mark = (fence["mark"] or "").split(":")[0]
        if mark.startswith("/"):  # the end of a generated table
            mark = ""
        block = Block(
            fence["language"], fence["text"], mark, page.count("\n", 0, fence.start("text")) + 1
        )
        if block.language not in MARKS.get(mark, ()):
            raise ValueError(
                f"{document}:{block.line}: what does <!-- {mark} --> before {block.language} mean?"
            )
        yield block


def prose(document: str) -> str:
    """A page without its blocks and without the commands in its sentences."""
    return INLINE.sub("", FENCE.sub("", (ROOT / document).read_text(encoding="utf-8")))


def follow(document: str) -> int:
    """Does what the page says in the current folder; returns the number of blocks. Raises what goes
    wrong, with the line.
    """
    with as_before():
        for command in INLINE.findall(FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))):
            do(Block("bash", command, "", 0), f"{document}: {command}", {})
        return sum(1 for _ in followed(document))


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """What a page adds to our tables, by a plugin or by itself, is gone afterwards."""
    tables = (METHODS, LOSSES, SOLVERS, METRICS, SOURCES)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(sys.modules))
        for table in tables:
            stack.enter_context(mock.patch.dict(table._known))
        yield


def followed(document: str) -> Iterator[Block]:
    namespace: dict[str, Any] = {"__name__": "documentation"}
    printed = ""
    for block in blocks(document):
        try:
            if block.mark == "output":
                assert block.text.strip() == printed.strip()
            with contextlib.redirect_stdout(io.StringIO()) as output:
                do(block, f"{document}:{block.line}", namespace)
            printed = output.getvalue()
        except (Exception, SystemExit) as error:
            raise AssertionError(
                f"{document}:{block.line}: {error!r}, after the output\n{printed}"
            ) from error
        yield block


def do(block: Block, where: str, namespace: dict[str, Any]) -> None:
    if block.language == "python":
        code = compile(block.text, where, "exec")
        if named := re.match(r"# (\w+\.py)\n", block.text):
            Path(named[1]).write_text(block.text, encoding="utf-8")
        elif block.mark != "not run":
            exec(code, namespace)
    elif block.language == "bash":
        for words in commands(block.text):
            program(words)(words[1:], block.mark == "run")
    elif block.language == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", block.text)):
        Path(name[1]).write_text(block.text, encoding="utf-8")


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell block as words, without settings of the environment before them."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            command, words = words[:end], words[end + 1 :]
            while re.fullmatch(r"[A-Z_]+=.*", command[0]):
                command = command[1:]
            yield command


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


def train(words: list[str], run: bool) -> None:
    if not run:
        if "..." not in words:
            parse_config(words)
        return
    AcceleratorState._reset_state(reset_partial_state=True)  # every command is a launch of its own
    GradientState._reset_state()
    assert train_lcm_lora.main(words) == 0


def accelerate(words: list[str], run: bool) -> None:
    assert words[0] == "launch"
    launch = launch_command_parser().parse_args(words[1:])
    assert launch.training_script == "train_lcm_lora.py"
    train(launch.training_script_args, run)


def torchrun(words: list[str], run: bool) -> None:
    train(get_args_parser().parse_args(words).training_script_args, run)


def lcm_command(words: list[str], run: bool) -> None:
    if run:
        assert lcm.cli.main.main(words) == 0
        return

    def parsed(args: argparse.Namespace, rest: Sequence[str]) -> int:
        if rest:
            # the verbs that take what they do not know take the flags of training
            parse_config(rest)
        return 0

    with mock.patch.object(VERBS.get(words[0]), "run", parsed):
        assert lcm.cli.main.main(words) == 0


def python(words: list[str], run: bool) -> None:
    if words[0] == "train_lcm_lora.py":
        return train(words[1:], run)
    name = words[1] if words[0] == "-m" else words[0].removesuffix(".py").replace("/", ".")
    if name in ("venv", "pytest", "tests.soak"):
        return None
    module, argv = importlib.import_module(name), words[2 if words[0] == "-m" else 1 :]
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
    assert targets is not None and set(words) <= set(targets[1].split()), words


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
        "accelerate": accelerate,
        "torchrun": torchrun,
        "python": python,
        "python3": python,
    },
    **{"make": make, "pip": pip, ".": known, "hf": known},
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
    """The parsers of training, of every verb, and of the launchers."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers()
    for name, verb in VERBS.items():
        verb.configure(verbs.add_parser(name))
    return {
        "config",
        *spellings(),
        *options(parser),
        *options(launch_command_parser()),
        *options(get_args_parser()),
    }
