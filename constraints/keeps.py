"""Asks pip what installing this package here would change: nothing, where its floors are there.

Exits with 1, and the list, where it would change more.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from drift import OURS

ROOT = Path(__file__).parent.parent


def would_install() -> list[str]:
    """Names and versions that pip would install besides ours."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-"]
    report = subprocess.run([*command, str(ROOT)], check=True, capture_output=True, text=True)
    found = [item["metadata"] for item in json.loads(report.stdout)["install"]]
    return [f"{item['name']} {item['version']}" for item in found if item["name"] != OURS]


def main() -> int:
    changed = would_install()
    print("installing this package here would change:", ", ".join(changed) or "nothing")
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
