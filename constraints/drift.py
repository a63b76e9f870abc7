"""Compares the packages of the environment that runs this with those of newest.txt.

With `--write` they become newest.txt.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

NEWEST = Path(__file__).with_name("newest.txt")
OURS = "latent-consistency-toolkit"
HEADER = """\
# Every package of the environment in which this commit is known to work: Linux, Python {python}.
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


def pinned() -> dict[str, str]:
    """Names and versions of newest.txt."""
    lines = NEWEST.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def differences(here: dict[str, str], newest: dict[str, str]) -> list[str]:
    """One line for each package that is not here as it is in newest.txt."""
    return [
        f"  {name}: {newest.get(name, 'not pinned')} -> {here.get(name, 'not installed')}"
        for name in sorted(here.keys() | newest.keys())
        if here.get(name) != newest.get(name)
    ]


def write(here: dict[str, str]) -> None:
    """Replaces newest.txt."""
    header = HEADER.format(python=".".join(map(str, sys.version_info[:2])))
    lines = [f"{name}=={version}\n" for name, version in here.items()]
    NEWEST.write_text(header + "".join(lines), encoding="utf-8")


def main() -> None:
    found = differences(installed(), pinned())
    print(f"{len(found)} packages differ from constraints/{NEWEST.name}", *found, sep="\n")
    if "--write" in sys.argv[1:]:
        write(installed())


if __name__ == "__main__":
    main()
