"""What a run is about to learn from, reported before it does: in the log, as data_report.json, and
as a picture of examples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median_low

from lcm.data.buckets import Buckets, one_square
from lcm.data.contact_sheet import Cut, draw_sheet, title_of, uncut
from lcm.data.crops import Shape
from lcm.data.dropped import HIDDEN, NO_CAPTION, SHOWN, Dropped
from lcm.data.loaded import LoadedData
from lcm.data.pictures import Picture
from lcm.data.records import Record
from lcm.models.prompts import Lengths
from lcm.system.atomic import replacing
from lcm.system.image_grid import save_png
from lcm.system.paths import write_text

JSON_NAME, PICTURE_NAME = "data_report.json", "data_report.png"

MUCH, KEEP_MORE = 0.2, "--aspect_ratio_buckets keeps more"
"""The part of pictures from which on cutting it away is worth a word, and the word."""


@dataclass(frozen=True)
class DataReport:
    """Counts of samples, pixels along the shorter sides of the images, and how many are cut to
    which width x height.

    What is about images is None or empty without any. `left_out` names what was dropped or hidden,
    of each reason the first `dropped.LISTED`, as file, reason, and what lies behind it. Of
    `captions_counted` captions, all but of very many, `long_captions` have more tokens than are
    learnt; None where nobody has counted. `cut_away` is the part of the pictures' area that is
    not seen in a pass, its mean.
    """

    source: str
    kept: int
    dropped: dict[str, int]
    without_caption: int
    captions: int
    resolution: int
    smallest_side: int | None
    median_side: int | None
    largest_side: int | None
    enlarged: int
    buckets: dict[str, int]
    hidden: int = 0
    left_out: list[dict[str, str]] = field(default_factory=list)
    captions_counted: int | None = None
    long_captions: int | None = None
    cut_away: float | None = None

    def lines(self) -> list[str]:
        """Lines for the log, which has what was kept and dropped already."""
        captions = (
            f"captions: {self.captions} for {self.kept} samples; dropped without one: "
            f"{self.without_caption}"
        )
        if self.smallest_side is None:
            return [captions]
        sides = f"{self.smallest_side} to {self.largest_side} pixels, median {self.median_side}"
        shapes = ", ".join(f"{shape} ({count})" for shape, count in self.buckets.items())
        cut = [f"cut to {shapes}"] if len(self.buckets) > 1 else []
        if len(self.buckets) == 1 and (self.cut_away or 0) > MUCH:
            cut = [f"cut to {shapes}: {self.cut_away:.0%} of what they show is lost; {KEEP_MORE}"]
        return [
            captions,
            *cut,
            (
                f"shorter sides of the images: {sides}; {self.enlarged} of {self.kept} are "
                "enlarged to what is cut out"
            ),
        ]


def make_report(
    data: LoadedData,
    resolution: int,
    buckets: Buckets | None = None,
    lengths: Lengths | None = None,
) -> DataReport:
    """The report on data that will be trained on at `resolution`, in these buckets or all as
    squares, with captions of these lengths.
    """
    buckets = buckets or one_square(resolution, len(data.records))
    pictures = data.pictures or []
    shapes = [buckets.shape(index) for index in range(len(pictures))]
    needed = [max(h / p.height, w / p.width) for (h, w), p in zip(shapes, pictures, strict=True)]
    sides = [min(picture.width, picture.height) for picture in pictures]
    dropped = data.dropped if isinstance(data.dropped, Dropped) else Dropped(data.dropped)
    return DataReport(
        source=data.source,
        kept=len(data.records),
        dropped=dict(sorted(data.dropped.items())),
        without_caption=data.dropped.get(NO_CAPTION, 0),
        captions=sum(len(record.captions) for record in data.records),
        resolution=resolution,
        smallest_side=min(sides, default=None),
        median_side=median_low(sides) if sides else None,
        largest_side=max(sides, default=None),
        enlarged=sum(scale > 1.0 for scale in needed),
        buckets=buckets.counts() if pictures else {},
        hidden=dropped.hidden,
        left_out=[asdict(one) for one in dropped.left_out()],
        captions_counted=None if lengths is None else lengths.counted,
        long_captions=None if lengths is None else lengths.long,
        cut_away=round(fmean(lost), 3) if (lost := areas_lost(shapes, pictures)) else None,
    )


def areas_lost(shapes: Sequence[Shape], pictures: Sequence[Picture]) -> list[float]:
    """The part of every picture's area that its shape leaves no room for."""
    ratios = (
        (picture.width * height) / (picture.height * width)
        for (height, width), picture in zip(shapes, pictures, strict=True)
    )
    return [1 - min(ratio, 1 / ratio) for ratio in ratios]


def write_report(
    folder: Path, report: DataReport, records: Sequence[Record], cut: Cut = uncut
) -> None:
    """data_report.json and, of images that can be opened again, data_report.png in `folder`, with
    what the first pass cuts out of each.
    """
    with replacing(folder / JSON_NAME) as partial:
        write_text(partial, json.dumps(asdict(report), indent=2) + "\n")
    if records[0].read is not None:
        title = title_of(report.source, report.kept)
        save_png(draw_sheet(records, title, lines_left_out(report), cut), folder / PICTURE_NAME)


def lines_left_out(report: DataReport) -> list[str]:
    """How many were left out and why, and the first of each reason by name."""
    if not (report.dropped or report.hidden):
        return []
    total, lines = sum(report.dropped.values()) + report.hidden, []
    counts = {**report.dropped, **({HIDDEN: report.hidden} if report.hidden else {})}
    for reason, number in counts.items():
        files = [one["file"] for one in report.left_out if one["reason"] == reason][:SHOWN]
        rest = number - len(files)
        more = [f"{rest} more"] if files and rest else []
        named = f": {', '.join([*files, *more])}" if files else ""
        lines.append(f"{number} {reason}{named}")
    return [f"Left out: {total}; all that are known by name are in {JSON_NAME}", *lines]
