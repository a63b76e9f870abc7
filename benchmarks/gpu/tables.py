"""The tables of a card, from its raw results alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.contenders import ONE, TWO
from benchmarks.methods.tables import table
from benchmarks.rounds import ratio
from benchmarks.serve import ONE as ALONE

Cells = dict[str, dict[str, Any]]
NOTHING = (
    "No card has been measured yet: nothing here is known of a GPU. On a machine with one, "
    "`python -m benchmarks.gpu` fills this in."
)
GIB = 2**30
PLAIN = "as it is"


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 1) -> str:
    """The median and, behind it, the ends of the middle half."""
    ordered = sorted(value * scale for value in values)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return f"{median(ordered):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def times(slower: Sequence[float], faster: Sequence[float]) -> str:
    """How many times, with its interval."""
    return "{:.2f} ({:.2f} to {:.2f})".format(*ratio(slower, faster))


def gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def what(cell: dict[str, Any]) -> str:
    """Model, batch and precision."""
    return f"{cell['model']}, batch {cell['batch']}, {cell['precision']}"


def peak_of(cells: Cells) -> float | None:
    """The measured ceiling, TFLOP/s in bfloat16."""
    found = cells.get("ceiling/matmul", {}).get("tflops", {}).get("bf16")
    return median(found) if found else None


def utilisation(cells: Cells, cell: dict[str, Any], seconds: float, *, encodes: bool) -> str:
    """FLOPs that the step needs, over its time and the ceiling; recomputing does not count."""
    ceiling, flops = peak_of(cells), cell["flops_per_image"]
    if ceiling is None:
        return ""
    needed = flops["step"] + (flops["encoders"] if encodes else 0)
    return f"{needed * cell['batch'] / seconds / 1e12 / ceiling:.0%}"


def card_table(machine: dict[str, Any], cells: Cells) -> str:
    """What the card is."""
    packages = machine["packages"]
    rows = [["card", machine["name"]]]
    for key in ("memory_bytes", "driver_version", "cuda", "cudnn", "clocks.max.sm", "power.limit"):
        if machine.get(key):
            value = machine[key]
            rows.append([key, f"{gib(value)} GiB" if key == "memory_bytes" else str(value)])
    rows.append(
        [
            "Python and packages",
            f"{machine['python']}; "
            + ", ".join(f"{name} {number}" for name, number in packages.items() if number),
        ]
    )
    ceiling = cells.get("ceiling/matmul", {})
    for name, found in ceiling.get("tflops", {}).items():
        sheet = machine.get("datasheet_bf16_tflops")
        share = f", {median(found) / sheet:.0%} of its datasheet" if sheet else ""
        rows.append([f"TFLOP/s, {name}, matrices of {ceiling['side']}", f"{spread(found)}{share}"])
    if "copy_tb_per_second" in ceiling:
        rows.append(["copy, TB/s", spread(ceiling["copy_tb_per_second"], digits=2)])
    return table(["", ""], rows)


def step_table(cells: Cells) -> str:
    """One line a contender."""
    rows = []
    for cell in of(cells, "step"):
        seconds = cell["seconds"]
        for name, column in seconds.items():
            facts = cell["contenders"].get(name, {})
            memory = facts.get("memory", {})
            rows.append(
                [
                    what(cell),
                    name,
                    spread(column, 1000),
                    *(times(seconds[s], column) if s in seconds else "" for s in (TWO, ONE)),
                    utilisation(cells, cell, median(column), encodes="cache" not in name),
                    gib(memory["held"] + memory["peak_above"]) if memory else "",
                    f"{facts['loss_apart']:.1e}" if facts else "",
                ]
            )
        rows += [[what(cell), name, why, *[""] * 5] for name, why in cell["failed"].items()]
    head = ["", "step of", "ms", "time of two U-Nets over it", "of one U-Net"]
    return table([*head, "MFU", "GiB", "loss apart"], rows)


def modes_table(cells: Cells) -> str:
    """One line a way of checkpointing, and of compiling."""
    rows = []
    for cell in of(cells, "checkpointing"):
        first = cell["seconds"].get("no")
        for name, column in cell["seconds"].items():
            rows.append(mode_row(cells, cell, f"checkpointing {name}", column, first, name))
        rows += [[what(cell), name, why, "", "", ""] for name, why in cell["failed"].items()]
    for cell in of(cells, "compile"):
        first = cell["seconds"][PLAIN]
        for name, column in cell["seconds"].items():
            title = f"checkpointing {cell['checkpointing']}, {name}"
            if name != PLAIN:
                title += f" ({cell['first_step_seconds']:.0f} s at first, {cell['graphs']} graphs)"
            rows.append(mode_row(cells, cell, title, column, first, name))
    head = ["", "this toolkit's step, --cache_latents", "ms", "over the first of its kind"]
    return table([*head, "MFU", "GiB"], rows)


def mode_row(
    cells: Cells,
    cell: dict[str, Any],
    title: str,
    column: Sequence[float],
    first: Sequence[float] | None,
    name: str,
) -> list[str]:
    memory = cell["memory"].get(name)
    return [
        what(cell),
        title,
        spread(column, 1000),
        times(column, first) if first else "",
        utilisation(cells, cell, median(column), encodes=False),
        gib(cell["held"] + memory["peak_above"]) if memory else "",
    ]


def graph_table(cells: Cells) -> str:
    """One line a way of launching."""
    rows = []
    for cell in of(cells, "graph"):
        plain = cell["seconds"][PLAIN]
        for name, column in cell["seconds"].items():
            seen = cell["results"][name]
            row = [what(cell), name, spread(column, 1000), times(plain, column)]
            rows.append([*row, f"{seen['loss']:.6f}", f"{seen['gradient_norm']:.5f}"])
    return table(["", "way there and back", "ms", "times faster", "loss", "|gradient|"], rows)


def draw_table(cells: Cells) -> str:
    """One line a way of calling."""
    rows = []
    for cell in of(cells, "draw"):
        for name, column in cell["seconds"].items():
            plain = cell["seconds"][name.removesuffix(", compiled")]
            memory = cell["memory"].get(name)
            row = [what(cell), name, spread(column, 1000)]
            row.append(f"{cell['batch'] / median(column):.1f}")
            row.append(times(plain, column) if plain is not column else "")
            rows.append([*row, gib(memory["peak_above"]) if memory else ""])
    head = ["", "four steps", "ms a call", "pictures a second", "times faster"]
    return table([*head, "GiB above weights"], rows)


def serve_table(cells: Cells) -> str:
    """One line a way of serving."""
    rows = []
    for cell in of(cells, "serve"):
        for name, column in cell["seconds"].items():
            row = [what(cell), name, f"{cell['requests'] / median(column):.1f}"]
            row.append(times(cell["seconds"][ALONE], column))
            rows.append([*row, str(cell["largest_difference"][name])])
    head = ["", "", "pictures a second", "times faster than one by one"]
    return table([*head, "largest difference of 255"], rows)


def right_table(cells: Cells) -> str:
    """What was asked, and the answer."""
    rows = []
    for cell in of(cells, "right"):
        for question, answer in cell.get("checks", {}).items():
            rows.append([f"fp16: {question}", "yes" if answer else "NO"])
        for kernels in ("as it is", "deterministic kernels"):
            for name, found in cell.get(kernels, {}).items():
                same = f"{found['different']} of {found['tensors']} tensors differ"
                largest = f", by {found['largest']:.1e} at most" if found["different"] else ""
                title = f"{cell['precision']}, {cell['updates']} updates against {name}, {kernels}"
                rows.append([title, same + largest])
    return table(["", ""], rows)


def learn_table(cells: Cells) -> str:
    """One line a scoring at which something changed hands."""
    rows = [
        [
            cell["precision"],
            str(row["updates"]),
            f"{row['seconds']:.1f}",
            f"{row['2']:.1%}",
            f"{row['4']:.1%}",
        ]
        for cell in of(cells, "learn")
        for row in cell["curve"]
    ]
    return table(["precision", "updates", "seconds", "right at 2 steps", "at 4 steps"], rows)


TABLES: dict[str, Callable[[Cells], str]] = {
    "step": step_table,
    "checkpointing": modes_table,
    "graph": graph_table,
    "draw": draw_table,
    "serve": serve_table,
    "right": right_table,
    "learn": learn_table,
}
"""First section of a table -> what makes it."""
TOGETHER = {"checkpointing": ("checkpointing", "compile")}


def of(cells: Cells, section: str) -> list[dict[str, Any]]:
    """The results of a section, without errors."""
    return [
        cell
        for name, cell in cells.items()
        if name.startswith(f"{section}/") and "error" not in cell
    ]


def gpu_tables(results: dict[str, Any]) -> str:
    """All that was measured; a sentence where nothing was."""
    if not results:
        return NOTHING
    machine, cells = results["machine"], results["cells"]
    parts = [card_table(machine, cells)]
    if machine.get("tiny"):
        parts.insert(0, "A rehearsal on small shapes: none of this says anything about a card.")
    for section, make in TABLES.items():
        if any(of(cells, name) for name in TOGETHER.get(section, (section,))):
            parts.append(make(cells))
    errors = [[name, cell["error"]] for name, cell in cells.items() if "error" in cell]
    if errors:
        parts.append(table(["not measured", "why"], errors))
    return "\n\n".join(parts)
