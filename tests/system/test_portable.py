"""What must not stand at the top of a file: modules that only POSIX has, and for command lines the
model libraries.
"""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from lcm.cli import VERBS
from tests.support import ROOT

POSIX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog", "posix"}
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_needs_a_module_of_posix_to_be_imported(path: object) -> None:
    assert not imported_on_load(path.read_text(encoding="utf-8")) & POSIX_ONLY  # type: ignore[attr-defined]


def test_a_module_of_posix_would_be_found() -> None:
    assert imported_on_load("if True:\n    import fcntl\ndef f():\n    import pwd") == {"fcntl"}


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
