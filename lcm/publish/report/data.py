"""What data_report.json and data_report.png tell of a run's samples, for its page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lcm.data.contact_sheet import ABOUT_FRAMES, BOX
from lcm.data.report import PICTURE_NAME
from lcm.publish.report.pictures import Tiles, read_grid
from lcm.system.text import count

MOST_NAMED = 50
"""So many of what was left out are on the page by name."""

Report = dict[str, Any]


def counted(reasons: Any) -> str | None:
    """Numbers by name in words, "3 unreadable, 2 without a caption"; None without any."""
    items = reasons.items() if isinstance(reasons, dict) else ()
    return ", ".join(f"{number} {reason}" for reason, number in items) or None


def sides(report: Report) -> str | None:
    """The shorter sides of the pictures."""
    low, middle, high = (report.get(f"{name}_side") for name in ("smallest", "median", "largest"))
    if low is None:
        return None
    return f"{low} pixels" if low == high else f"{low} to {high} pixels, median {middle}"


def shapes(report: Report) -> str | None:
    """What the pictures are cut to, and how much is lost."""
    buckets = report.get("buckets")
    if not (isinstance(buckets, dict) and buckets):
        return None
    cut = ", ".join(f"{shape.replace('x', ' x ')} ({n})" for shape, n in buckets.items())
    lost = report.get("cut_away")
    return f"{cut}; {lost:.0%} of what they show is cut away" if lost else cut


def long(report: Report) -> str | None:
    """How many captions are longer than what is learnt of them."""
    number, of = report.get("long_captions"), report.get("captions_counted")
    return f"{number} of {of} counted: their ends are not learnt" if number else None


def enlarged(report: Report) -> str | None:
    """How many pictures are smaller than what is cut out."""
    number = report.get("enlarged")
    return f"{count(number, 'picture')} smaller than that" if number else None


ROWS: dict[str, Callable[[Report], Any]] = {
    "samples": lambda report: report.get("kept"),
    "read from": lambda report: report.get("source"),
    "left out": lambda report: counted(report.get("dropped")),
    "hidden, passed over": lambda report: report.get("hidden") or None,
    "captions": lambda report: report.get("captions"),
    "captions that are too long": long,
    "shorter sides": sides,
    "cut to": shapes,
    "enlarged": enlarged,
}
"""The rows of the table, each with what it says; None where there is nothing to say."""


def facts(report: Report) -> list[tuple[str, Any]]:
    """The table of the data."""
    rows = [(name, say(report)) for name, say in ROWS.items()]
    return [(name, value) for name, value in rows if value is not None]


def left_out(report: Report) -> dict[str, Any] | None:
    """What was left out by name, as far as it has room; None where nothing was."""
    dropped, hidden = report.get("dropped"), report.get("hidden") or 0
    total = sum(dropped.values()) + hidden if isinstance(dropped, dict) else hidden
    if not total:
        return None
    listed = (report.get("left_out") or [])[:MOST_NAMED]
    return {"total": total, "listed": listed, "rest": total - len(listed)}


def samples(output_dir: Path) -> Tiles | str | None:
    """The pictures of the contact sheet with their words, or that of an earlier version as it is;
    None without one.
    """
    path = output_dir / PICTURE_NAME
    return read_grid(path, BOX) if path.exists() else None


def about_frames(report: Report) -> str | None:
    """What the frames in the samples are; None where nothing is cut away."""
    return ABOUT_FRAMES if report.get("cut_away") else None
