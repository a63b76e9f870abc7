"""What must not stand at the top of a file: modules that only POSIX has, and for command lines the
model libraries.
"""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

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


@pytest.mark.parametrize(
    "command",
    [
        "import lcm.cli.main as m; m.main(['--help'])",
        "import lcm.cli.main as m; m.main(['generate', '--help'])",
        "import train_lcm_lora as m; m.main(['--help'])",
        "import train_lcm_lora as m; m.main(['--no_such_flag', '1'])",
    ],
)
def test_help_and_unknown_flags_are_answered_without_the_model_libraries(command: str) -> None:
    program = (
        f"import sys\ntry:\n    {command}\nexcept SystemExit:\n    pass\n"
        f"print(sorted({MODEL_LIBRARIES} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr
