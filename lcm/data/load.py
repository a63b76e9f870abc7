"""Reading a source: every usable sample, once, the same on all processes."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from lcm.data.config import DataConfig
from lcm.data.dropped import (
    BAD_TEXT,
    ENDLESS,
    LINKED_OUT,
    NO_CAPTION,
    NO_FILE,
    SHOWN,
    Dropped,
    example,
    leave_out,
)
from lcm.data.formats import IMAGE_FORMATS
from lcm.data.loaded import LoadedData
from lcm.data.pictures import TOO_LARGE, UNREADABLE, Picture, survey
from lcm.data.records import Record, drop_bad_names, fingerprint
from lcm.data.sources import SOURCES
from lcm.system.processes import ALONE, Team
from lcm.system.registry import lookup
from lcm.system.text import plain

logger = logging.getLogger(__name__)


@dataclass
class Opened:
    """A source, read up to its first sample: what is wrong with a folder or a table is known before
    anything large is loaded.
    """

    config: DataConfig
    records: Iterator[Record]
    dropped: Dropped


def open_data(config: DataConfig, team: Team = ALONE) -> Opened:
    """The source that the configuration names. Raises FileNotFoundError or ValueError, naming the
    fix, where there is nothing to read or no sample at all.
    """
    name, where = config.reads
    source, dropped = lookup(SOURCES, name, "source of data"), Dropped()
    records = drop_bad_names(source.read(where, config, dropped), dropped)

    def begin() -> list[Record]:
        first = list(islice(records, 1))
        if not first:
            report_dropped(config, first, dropped)
        return first

    return Opened(config, chain(team.together(begin), records), dropped)


def load_data(
    config: DataConfig,
    team: Team = ALONE,
    folder: Path | None = None,
    opened: Opened | None = None,
) -> LoadedData:
    """All usable samples, in a fixed order, and how many others there are and why. Logs what was
    dropped.

    Every picture is decoded once, by one process of the team; in `folder` that is
    remembered. `opened` is what `open_data` gave, if that was asked before.

    Raises FileNotFoundError or ValueError, naming the fix, when nothing usable is left.
    """
    flag, (name, where) = config.source, config.reads
    opened = opened or open_data(config, team)
    dropped = opened.dropped
    records: list[Record] = []
    pictures: list[Picture] | None = [] if SOURCES[name].has_images else None
    while more := next_records(opened.records, config.max_train_samples, len(records), team, flag):
        if pictures is not None:
            more, surveyed = drop_unusable(more, survey(more, team, folder), dropped)
            pictures += surveyed
        records += more
    report_dropped(config, records, dropped)
    return LoadedData(f"--{flag} {where}", records, pictures, dropped)


def report_dropped(config: DataConfig, records: list[Record], dropped: Dropped) -> None:
    """Logs what was dropped and why, with names. Raises ValueError, naming the fix, when nothing
    usable is left.
    """
    name, where = config.reads
    source = SOURCES[name]
    reasons = (
        ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "nothing"
    )
    if records:
        logger.info("%s: kept %d samples; dropped: %s", where, len(records), reasons)
    for line in dropped.lines():
        logger.info("  %s", line)
    if records:
        return
    if dropped[NO_CAPTION] and not dropped.keys() & {UNREADABLE, TOO_LARGE}:
        refused = [
            str(dropped.named[reason][0])
            for reason in (LINKED_OUT, BAD_TEXT, ENDLESS, NO_FILE)
            if reason in dropped.named
        ]
        hints = [*dropped.hints[:SHOWN], *(f"left out is {one}" for one in refused)]
        meant = "".join(f"{text}; " for text in hints)
        raise ValueError(
            f"{where}: none of the {dropped[NO_CAPTION]} images has a caption; {meant}"
            f"{source.add_captions.format(config.caption_column)}"
        )
    raise ValueError(
        f"{where} gives no usable sample; dropped: {reasons}{example(dropped)}. Replace the files "
        "or point to another folder"
    )


def next_records(
    records: Iterator[Record], limit: int | None, kept: int, team: Team, flag: str
) -> list[Record]:
    """The next records, so many as are still missing to `limit`, the same on all processes; empty
    when there are no more.

    Raises ValueError, on all processes, where they do not see the same.
    """
    room = None if limit is None else min(limit - kept, sys.maxsize)
    more = team.together(lambda: list(islice(records, room)))
    team.check_same(fingerprint(more), "training data", f"--{flag}")
    return more


def drop_unusable(
    records: list[Record], pictures: list[Picture], dropped: Counter[str]
) -> tuple[list[Record], list[Picture]]:
    """The records with a picture to train on, and these pictures: a broken file is found before the
    run and not in its middle.
    """
    for record, picture in zip(records, pictures, strict=True):
        if picture.reason:
            logger.warning(
                "skipping %s, which cannot be read as an image (%s): %s",
                plain(record.key, 500),
                ", ".join(IMAGE_FORMATS),
                plain(picture.error, 500),
            )
            leave_out(dropped, record.key, picture.reason, picture.error)
    good = [
        (record, picture)
        for record, picture in zip(records, pictures, strict=True)
        if not picture.reason
    ]
    return [record for record, _ in good], [picture for _, picture in good]


def load_records(config: DataConfig) -> list[Record]:
    """The usable samples alone, as `load_data` finds them."""
    return load_data(config).records
