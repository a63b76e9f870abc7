"""Tries what README.md does in the environment that runs this, and keeps what came of it.

    python -m benchmarks.environments NAME [--exchange FOLDER]

README's snippets, the verbs, its training command for twenty updates, and the dry run; with
`--exchange` also what `python -m tests.exchange write FOLDER` left under other versions. The
results of all environments stand in `results/environments.json`, and in a table of
docs/install.md, which `python -m benchmarks.report` fills.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lcm.system.about import installed
from lcm.system.paths import write_text

ROOT = Path(__file__).resolve().parent.parent
NAME = "environments.json"
RESULTS = ROOT / "benchmarks" / "results" / NAME
PACKAGES = (
    *("torch", "diffusers", "transformers", "peft", "accelerate", "huggingface_hub", "datasets"),
)
TEACHER, ADAPTER = "examples/shapes/teacher", "examples/shapes/lcm_lora"


def snippets() -> str:
    """README's Python, as one program."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def trials(folder: Path) -> dict[str, list[list[str]]]:
    """What is tried -> its commands, which leave what they make in `folder`."""
    python, lcm = [sys.executable], [sys.executable, "-m", "lcm"]
    data, run = str(folder / "data"), str(folder / "run")
    train = [
        *("--pretrained_teacher_model", TEACHER, "--train_data_dir", data),
        *("--train_batch_size", "4", "--max_train_steps", "20", "--mixed_precision", "bf16"),
        *("--gradient_checkpointing", "selective", "--lr_scheduler", "cosine"),
        *("--validation_num_steps", "1", "4", "--validation_teacher_steps", "0"),
    ]
    launch = [*python, "-m", "accelerate.commands.launch", "train_lcm_lora.py"]
    render = ["-m", "examples.shapes.render", "--output_dir", data, "--num_images", "16"]
    prompt = ["--prompt", "a red star", "--steps", "1", "4"]
    pictures = [*lcm, "generate", "--base", TEACHER, "--adapter"]
    return {
        "README's snippets": [[*python, "-c", snippets()]],
        "verbs": [
            [*lcm, "inspect", ADAPTER],
            [*lcm, "verify", ADAPTER, "--base", TEACHER],
            [*lcm, "convert", ADAPTER, "--to", "diffusers", str(folder / "dotted")],
            [*pictures, ADAPTER, *prompt, "--output", str(folder / "pictures")],
        ],
        "20 updates": [
            [*python, *render],
            [*launch, *train, "--output_dir", run],
            [*lcm, "verify", run, "--base", TEACHER],
            [*pictures, run, *prompt, "--output", str(folder / "more")],
        ],
        "dry run": [[*python, "train_lcm_lora.py", *train, "--output_dir", run + "2", "--dry_run"]],
    }


def outcome(commands: list[list[str]], folder: Path) -> str:
    """ok, or the last line that the first failing command has said; they work in `folder`."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    for command in commands:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            return f"{said[-1] if said else 'failed'}"[:300]
    return "ok"


def table(results: dict[str, Any]) -> str:
    """One row an environment."""
    lines: list[str] = []
    for name, found in results.items():
        tried = found["tried"]
        if not lines:
            heads = ["environment", "Python", *PACKAGES, *tried]
            lines += [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        versions = [found["versions"][name] for name in ("python", *PACKAGES)]
        lines.append(f"| {' | '.join([name, *versions, *tried.values()])} |")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """The versions of Python and of `PACKAGES`, by name."""
    return {"python": platform.python_version()} | {name: installed(name) for name in PACKAGES}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="what the table calls this environment")
    parser.add_argument("--exchange", type=Path, help="what other versions wrote")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("examples", "tests", "train_lcm_lora.py"):  # a clone that may be written to
            Path(folder, name).symlink_to(ROOT / name)
        todo = trials(Path(folder))
        if args.exchange is not None:
            todo["files of others"] = [
                [sys.executable, "-m", "tests.exchange", "read", str(args.exchange.resolve())]
            ]
        tried = {}
        for name, commands in todo.items():
            tried[name] = outcome(commands, Path(folder))
            print(f"{name}: {tried[name]}", flush=True)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results[args.name] = {"versions": versions(), "machine": platform.platform(), "tried": tried}
    write_text(RESULTS, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
