"""What other programs did with files of this toolkit, from `results/players.json`, which
`make players` writes: the tables of docs/tools.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.methods.tables import table

NAME = "players.json"
RESULTS = Path(__file__).parent / "results" / NAME
MODELS = ("SD 1.5", "SD 2.1", "SDXL", "SSD-1B")
SHOWN = 4
"""The number of steps whose times are shown."""


def layers_table(results: dict[str, Any]) -> str:
    """A program a line: its version, and what it took of the file for each model."""
    rows = []
    for title, result in results.items():
        found = {a["file"]: a for a in result["answers"] if a["asked"] == "layers"}
        numbers = [a.get("difference") for a in found.values()]
        worst = max((n for n in numbers if n is not None), default=None)
        rows.append(
            [
                title,
                in_words(result),
                result["run"],
                *(taken_in_words(found.get(model)) for model in MODELS),
                "" if worst is None else f"{worst:.0e}" if worst else "0",
            ]
        )
    return table(["program", "version", "run", *MODELS, "largest difference"], rows)


def in_words(result: dict[str, Any]) -> str:
    """The version, with the date of the commit and the repository where it was a checkout."""
    if "committed" not in result:
        return str(result["version"])
    return f"{result['version']} ({result['committed']}, {result['from']})"


def taken_in_words(found: dict[str, Any] | None) -> str:
    """Such as "278 of 278"."""
    if found is None:
        return "not reached"
    return "no such model" if found["taken"] is None else f"{found['taken']} of {found['layers']}"


def times_table(results: dict[str, Any]) -> str:
    """A setting a line: the times that the U-Net was asked for, and how the picture of a network
    that predicts perfectly came out.
    """
    rows = []
    for title, result in results.items():
        for found in result["answers"]:
            if found["asked"] == "times" and found["steps"] == SHOWN:
                node = (
                    f" behind ModelSamplingDiscrete `{found['node']}`" if found.get("node") else ""
                )
                schedule = f", {found['scheduler']}" if "scheduler" in found else ""
                rows.append(
                    [
                        title,
                        f"{found['sampler']}{schedule}{node}",
                        "v" if found["predicts"] == "v_prediction" else found["predicts"],
                        " ".join(f"{time:g}" for time in found["times"]),
                        f"{found['error']:.1%}" if "error" in found else "",
                    ]
                )
    return table(["program", "setting", "base predicts", f"times of {SHOWN} steps", "error"], rows)
