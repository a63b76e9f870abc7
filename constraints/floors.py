"""Prints the lowest release that pyproject.toml allows of every package that we need ourselves, as
constraints of pip. torch alone comes as newest.txt has it: its older releases are no CPU builds.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from drift import CONSTRAINTS, pinned

PROJECT = CONSTRAINTS.parent / "pyproject.toml"
KEPT = "torch"


def floors(project: Path = PROJECT) -> dict[str, str]:
    """Name -> lowest release, of the dependencies that are always installed."""
    needs = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    found = {}
    for need in needs:
        name, floor = re.match(r"([\w-]+)>=([\w.]+)", need).groups()  # type: ignore[union-attr]
        found[name.replace("_", "-")] = floor
    return found


def main() -> None:
    for name, floor in (floors() | {KEPT: pinned("newest")[KEPT]}).items():
        print(f"{name}=={floor}")


if __name__ == "__main__":
    main()
