"""What no file may need: what only POSIX has, the encoding of one system; at the top of a file, for
command lines, the model libraries.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lcm.cli import VERBS
from tests.support import ROOT
from tests.support.posix import ATTRIBUTES, MODULES

GUARDED = {"lcm/system/signals.py": {"pthread_sigmask", "SIG_BLOCK", "sigwaitinfo"}}
"""What stands behind a question for the system."""
MODEL_LIBRARIES = {"torch", "diffusers", "transformers", "peft", "accelerate", "datasets"}
FILES = [
    *sorted((ROOT / "lcm").rglob("*.py")),
    *sorted((ROOT / "pipelines").rglob("*.py")),
    ROOT / "train_lcm_lora.py",
]


def imported_on_load(source: str) -> set[str]:
    """The top names of what a file imports outside functions."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)
    return found


@cache
def nodes(source: str) -> list[ast.AST]:
    """All of a file, which several look through."""
    return list(ast.walk(ast.parse(source)))


def flaws(look: Callable[[str], Any], files: Iterable[Path] = FILES) -> dict[str, Any]:
    """What is found in files, by their names, where something is."""
    found = {
        path.relative_to(ROOT).as_posix(): look(path.read_text(encoding="utf-8")) for path in files
    }
    return {name: flaw for name, flaw in found.items() if flaw}


def test_no_file_needs_a_module_of_posix_to_be_imported() -> None:
    assert flaws(lambda source: imported_on_load(source) & MODULES) == {}


def test_a_module_of_posix_would_be_found() -> None:
    assert imported_on_load("if True:\n    import fcntl\ndef f():\n    import pwd") == {"fcntl"}


def attributes_of_posix(source: str) -> set[str]:
    """The attributes of modules that a file uses, or imports by name, and Windows has not."""
    found = set()
    for node in nodes(source):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module, names = node.value.id, [node.attr]
        elif isinstance(node, ast.ImportFrom):
            module, names = str(node.module), [alias.name for alias in node.names]
        else:
            continue
        found |= set(names) & ATTRIBUTES.get(module, set())
    return found


def test_no_file_uses_what_windows_has_not() -> None:
    assert flaws(attributes_of_posix) == GUARDED


def test_what_windows_has_not_would_be_found() -> None:
    source = "import os\nfrom signal import SIGHUP\ndef f():\n    return os.getuid()"
    assert attributes_of_posix(source) == {"SIGHUP", "getuid"}


def unclear_texts(source: str) -> list[str]:
    """Calls that read or write a text without naming its encoding, or write one whose ends of lines
    Windows would change.
    """
    found = []
    for node in nodes(source):
        if not isinstance(node, ast.Call):
            continue
        is_method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        named = {keyword.arg for keyword in node.keywords}
        modes = [
            a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
        ]
        mode = next((text for text in modes if set(text) <= set("rwaxbt+")), "r")
        opens = name == "open" and (bool(modes) or isinstance(node.func, ast.Name))
        is_text = opens and "b" not in mode
        writes = (name == "write_text" and is_method) or (is_text and mode != "r")
        reads = name == "read_text" and is_method
        if ((writes or reads or is_text) and "encoding" not in named) or (
            writes and "newline" not in named
        ):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_every_text_names_its_encoding_and_its_ends_of_lines() -> None:
    assert flaws(unclear_texts, [*FILES, *(ROOT / "examples").rglob("*.py")]) == {}


@pytest.mark.parametrize(
    "call",
    [
        *("open(p)", "open(p, 'w', encoding='utf-8')", "p.open('a')", "p.open('x', newline='')"),
        *("p.read_text()", "p.write_text(t)", "p.write_text(t, encoding='utf-8')"),
    ],
)
def test_a_text_without_an_encoding_would_be_found(call: str) -> None:
    assert len(unclear_texts(call)) == 1


def test_bytes_have_no_encoding() -> None:
    assert unclear_texts("p.open('rb'); open(p, 'wb'); Image.open(p); self.open()") == []


ASKED = (
    *([], ["--help"], ["--version"], ["genrate"], ["--no_such_flag"]),
    *([verb, "--help"] for verb in VERBS),
    *([verb, "--no_such_flag"] for verb in VERBS),
    *(["cache", action, "--help"] for action in ("build", "inspect", "verify")),
    ["cache", "buidl"],
    ["generate", *"--base x --prompt y --output z --steps 1000000000".split()],
)
"""Command lines of `lcm` that are answered at once."""
TRAINING = [
    *(["--help"], ["--help", "cache"], ["--help", "nothingatall"], ["--version"], []),
    *(["--no_such_flag", "1"], ["--teacher", "x"], ["--seed", "x"], ["stray"]),
    ["--config", "nowhere.yaml"],
    ["--pretrained_teacher_model", ""],
    ["--pretrained_teacher_model", "x", "--train_data_dir", "y", "--lora_rank", "1000000000"],
]
"""The same of training."""


def test_help_and_mistakes_are_answered_without_the_model_libraries() -> None:
    program = f"""
import contextlib, io, sys
import lcm.cli.main, train_lcm_lora
for main, lines in ((lcm.cli.main.main, {ASKED}), (train_lcm_lora.main, {TRAINING})):
    for line in lines:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                main(line)
            except SystemExit:
                pass
        assert said.getvalue(), line
        assert "Traceback" not in said.getvalue(), (line, said.getvalue())
        if loaded := {MODEL_LIBRARIES} & set(sys.modules):
            sys.exit(f"{{line}} loads {{sorted(loaded)}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
