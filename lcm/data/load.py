"""Reading a source: every usable sample, once, the same on all processes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lcm.data.config import DataConfig
from lcm.data.loaded import LoadedData
from lcm.data.pictures import TOO_LARGE, UNREADABLE, Picture, survey
from lcm.data.records import IMAGE_FORMATS, NO_CAPTION, Record, drop_bad_names, fingerprint
from lcm.data.sources import SOURCES
from lcm.system.processes import ALONE, Team
from lcm.system.registry import lookup

logger = logging.getLogger(__name__)


def load_data(config: DataConfig, team: Team = ALONE, folder: Path | None = None) -> LoadedData:
    """All usable samples, in a fixed order, and how many others there are and why. Logs what was
    dropped.

    Every picture is decoded once, by one process of the team; in `folder` that is
    remembered.

    Raises FileNotFoundError or ValueError, naming the fix, when nothing usable is left.
    """
    flag, (name, where) = config.source, config.reads
    source = lookup(SOURCES, name, "source of data")
    dropped: Counter[str] = Counter()
    rest = drop_bad_names(source.read(where, config, dropped), dropped)
    records: list[Record] = []
    pictures: list[Picture] | None = [] if source.has_images else None
    while more := next_records(rest, config.max_train_samples, len(records), team, flag):
        if pictures is not None:
            more, surveyed = drop_unusable(more, survey(more, team, folder), dropped)
            pictures += surveyed
        records += more
    report_dropped(config, records, dropped)
    return LoadedData(f"--{flag} {where}", records, pictures, dropped)


def report_dropped(config: DataConfig, records: list[Record], dropped: Counter[str]) -> None:
    """Logs what was dropped and why. Raises ValueError, naming the fix, when nothing usable is
    left.
    """
    name, where = config.reads
    source = SOURCES[name]
    if not records and dropped[NO_CAPTION] and not dropped.keys() & {UNREADABLE, TOO_LARGE}:
        raise ValueError(
            f"{where}: none of the {dropped[NO_CAPTION]} images has a caption; "
            f"{source.add_captions.format(config.caption_column)}"
        )
    reasons = (
        ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "nothing"
    )
    logger.info("%s: kept %d samples; dropped: %s", where, len(records), reasons)
    if not records:
        raise ValueError(
            f"{where} gives no usable sample; dropped: {reasons}. Replace the files or point to "
            "another folder"
        )


def next_records(
    records: Iterator[Record], limit: int | None, kept: int, team: Team, flag: str
) -> list[Record]:
    """The next records, so many as are still missing to `limit`, the same on all processes; empty
    when there are no more.

    Raises ValueError, on all processes, where they do not see the same.
    """
    more = team.together(lambda: list(islice(records, None if limit is None else limit - kept)))
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
            formats = ", ".join(IMAGE_FORMATS)
            logger.warning(
                "skipping %s, which cannot be read as an image (%s): %s",
                record.key,
                formats,
                picture.error,
            )
            dropped[picture.reason] += 1
    good = [
        (record, picture)
        for record, picture in zip(records, pictures, strict=True)
        if not picture.reason
    ]
    return [record for record, _ in good], [picture for _, picture in good]


def load_records(config: DataConfig) -> list[Record]:
    """The usable samples alone, as `load_data` finds them."""
    return load_data(config).records
