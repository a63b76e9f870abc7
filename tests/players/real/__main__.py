"""Runs the real programs on files that this toolkit made: `make players`, outside CI.

    python -m tests.players.real --comfyui ~/ComfyUI --a1111 ~/stable-diffusion-webui

Every program runs from a checkout that is named, in a process of its own, without a GPU, a window
or weights. What it imports has to be installed where this runs, or in a folder that `--site` names;
of torchvision and other packages that it does not use here, empty ones stand in. One that is not
named is not asked. Answers are kept with those of other programs in `--results`, from which
`python -m benchmarks.report` makes the tables of docs/tools.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import players
from tests.players.real.asking import SIGN
from tests.players.real.files import make_files
from tests.support import ROOT

HERE = Path(__file__).parent
LONGEST = 600
"""Seconds for one program."""
SCRIPTS = {
    "comfyui": "ComfyUI",
    "a1111": "A1111",
    "sd_scripts": "sd-scripts",
    "invokeai": "InvokeAI",
}
"""The script beside this file, and the program that it asks."""


def git(checkout: Path, *words: str) -> str:
    """What git says of a checkout, "" where it is none."""
    line = ["git", "-C", str(checkout), *words]
    return subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()


def version_of(checkout: Path) -> dict[str, str]:
    """The commit and its date."""
    return {
        "version": git(checkout, "describe", "--tags", "--always") or "no git checkout",
        "commit": git(checkout, "rev-parse", "HEAD"),
        "committed": git(checkout, "log", "-1", "--format=%cs"),
        "from": git(checkout, "remote", "get-url", "origin").split("/")[-1].removesuffix(".git"),
    }


def run(script: str, checkout: Path, folder: Path, site: Path | None) -> dict[str, Any]:
    """The answers of one program, and the last line of its errors where it ended with one."""
    path = [str(ROOT), *([str(site)] if site else []), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    line = [sys.executable, str(HERE / f"{script}.py"), str(checkout), str(folder)]
    ended = subprocess.run(
        line, capture_output=True, text=True, check=False, timeout=LONGEST, env=environment
    )
    answers = [
        json.loads(text.removeprefix(SIGN))
        for text in ended.stdout.splitlines()
        if text.startswith(SIGN)
    ]
    last = ended.stderr.strip().splitlines()[-1:] if ended.returncode else []
    return {"answers": answers, "error": "".join(last)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, title in SCRIPTS.items():
        parser.add_argument(f"--{name}", type=Path, help=f"a checkout of {title}")
    parser.add_argument("--site", type=Path, help="a folder with packages that the programs import")
    parser.add_argument("--results", type=Path, default=players.RESULTS)
    args = parser.parse_args(argv)
    results = json.loads(args.results.read_text()) if args.results.is_file() else {}
    with TemporaryDirectory() as place:
        folder = Path(place)
        make_files(folder)
        stock = {"version": importlib.metadata.version("diffusers")}
        results["diffusers"] = {**stock, **run("stock", folder, folder, None)}
        asked = ["diffusers"]
        for name, title in SCRIPTS.items():
            checkout = getattr(args, name)
            if checkout is None:
                print(f"{title}: not asked; name a checkout with {name.upper()}=PATH")
                continue
            if not checkout.is_dir():
                print(f"{title}: {checkout} is no folder")
                continue
            checkout = checkout.resolve()
            results[title] = {**version_of(checkout), **run(name, checkout, folder, args.site)}
            asked.append(title)
    for title in asked:
        results[title]["run"] = datetime.date.today().isoformat()
        if error := results[title]["error"]:
            print(f"{title}: could not be asked to the end: {error}")
    args.results.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    print(players.layers_table(results), players.times_table(results), sep="\n\n")


if __name__ == "__main__":
    main()
