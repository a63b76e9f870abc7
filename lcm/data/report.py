"""What a run is about to learn from, reported before it does: in the log, as data_report.json, and
as a picture of examples.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median_low

from PIL import Image, ImageDraw

from lcm.data.buckets import Buckets, one_square
from lcm.data.dropped import NO_CAPTION, Dropped
from lcm.data.loaded import LoadedData
from lcm.data.records import Record
from lcm.models.prompts import Lengths
from lcm.system.atomic import replacing
from lcm.system.fonts import legible, letters_across
from lcm.system.image_grid import draw_images, save_png
from lcm.system.paths import write_text

JSON_NAME, PICTURE_NAME = "data_report.json", "data_report.png"
TILE, MARGIN = (256, 384), 8
LINES, LINE_LENGTH, LINE_HEIGHT, FONT_SIZE = 7, 36, 18, 14
LONGEST = LINES * LINE_LENGTH
"""Letters of a caption that have room."""


@dataclass(frozen=True)
class DataReport:
    """Counts of samples, pixels along the shorter sides of the images, and how many are cut to
    which width x height.

    What is about images is None or empty without any. `left_out` names what was dropped or hidden,
    of each reason the first `dropped.LISTED`, as file, reason, and what lies behind it. Of
    `captions_counted` captions, all but of very many, `long_captions` have more tokens than are
    learnt; None where nobody has counted.
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

    def lines(self) -> list[str]:
        """Lines for the log, which has what was kept and dropped already."""
        captions = (
            f"captions: {self.captions} for {self.kept} samples; dropped without one: "
            f"{self.without_caption}"
        )
        if self.smallest_side is None:
            return [captions]
        sides = f"{self.smallest_side} to {self.largest_side} pixels, median {self.median_side}"
        buckets = [
            f"cut to {', '.join(f'{shape} ({count})' for shape, count in self.buckets.items())}"
        ]
        return [
            captions,
            *(buckets if len(self.buckets) > 1 else []),
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
    )


def write_report(folder: Path, report: DataReport, records: Sequence[Record]) -> None:
    """data_report.json and, of images that can be opened again, data_report.png in `folder`."""
    with replacing(folder / JSON_NAME) as partial:
        write_text(partial, json.dumps(asdict(report), indent=2) + "\n")
    if records[0].read is not None:
        save_png(draw_examples(records), folder / PICTURE_NAME)


def draw_examples(records: Sequence[Record]) -> Image.Image:
    """The first, the middle and the last sample, side by side."""
    tiles = [draw_example(records[i]) for i in sorted({0, len(records) // 2, len(records) - 1})]
    return draw_images(tiles, len(tiles), TILE)


def draw_example(record: Record) -> Image.Image:
    """The picture as it is read, made smaller where it is large, and a whole number of times larger
    where it is small, over its captions.
    """
    tile = Image.new("RGB", TILE, "silver")  # so that the edge of a white picture shows
    picture = record.image()
    room = TILE[0] - 2 * MARGIN
    picture.thumbnail((room, room))
    times = room // max(picture.size)
    if times > 1:
        size = (picture.width * times, picture.height * times)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    tile.paste(picture, (MARGIN, MARGIN))
    lines = []
    for caption in record.captions[:LINES]:
        shown, font = legible(caption[:LONGEST], FONT_SIZE)
        length = letters_across(shown, font, TILE[0] - 2 * MARGIN)
        lines += [(line, font) for line in textwrap.wrap(shown, length, subsequent_indent="  ")]
    pen = ImageDraw.Draw(tile)
    for number, (line, font) in enumerate(lines[:LINES]):
        pen.text((MARGIN, TILE[0] + number * LINE_HEIGHT), line, fill="black", font=font)
    return tile
