"""Compares the packages of the environment that runs this with those of newest.txt, or of the file
that is named: `drift.py lowest`.

With `--write` they become that file.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parent
OURS = "latent-consistency-toolkit"
HEADER = """\
# Every package of the {name} environment in which this commit works: Linux, Python {python}.
# Written by `make constraints`, from what pip resolved that day. Not edited by hand.
"""


def installed() -> dict[str, str]:
    """Normalised names and versions of all packages here but ours.

    The build of a version, `+cpu` or `+cu130`, is left out: it is the machine's.
    """
    found = {
        re.sub(r"[-_.]+", "-", package.name).lower(): package.version.partition("+")[0]
        for package in importlib.metadata.distributions()
    }
    return {name: found[name] for name in sorted(found) if name != OURS}


def pinned(name: str) -> dict[str, str]:
    """Names and versions of a file here."""
    path = CONSTRAINTS / f"{name}.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def differences(here: dict[str, str], there: dict[str, str]) -> list[str]:
    """One line for each package that is not here as it is pinned there."""
    return [
        f"  {name}: {there.get(name, 'not pinned')} -> {here.get(name, 'not installed')}"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]


def write(name: str, here: dict[str, str]) -> None:
    """Replaces a file here."""
    header = HEADER.format(name=name, python=".".join(map(str, sys.version_info[:2])))
    lines = [f"{package}=={version}\n" for package, version in here.items()]
    (CONSTRAINTS / f"{name}.txt").write_text(header + "".join(lines), encoding="utf-8")


def main() -> None:
    name = next((word for word in sys.argv[1:] if not word.startswith("-")), "newest")
    if "--write" in sys.argv[1:]:
        write(name, installed())
    found = differences(installed(), pinned(name))
    print(f"{len(found)} packages differ from constraints/{name}.txt", *found, sep="\n")


if __name__ == "__main__":
    main()
