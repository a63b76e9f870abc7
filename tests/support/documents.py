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

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from lcm.data.sources import SOURCES
from lcm.diffusion.tables import LOSSES, SOLVERS
from lcm.methods import METHODS
from lcm.methods.terms import TERMS
from lcm.training.metrics import METRICS
from tests.support import ROOT
from tests.support.programs import program

DOCUMENTS = (
    "README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    *(
        "benchmarks/README.md",
        "examples/shapes/README.md",
        "examples/shapes/community/README.md",
        "examples/patterns/README.md",
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
    tables = (METHODS, TERMS, LOSSES, SOLVERS, METRICS, SOURCES)
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
            if ">" in command:  # into a file
                command = command[: command.index(">")]
            while re.fullmatch(r"[A-Z_]+=.*", command[0]):
                command = command[1:]
            yield command
