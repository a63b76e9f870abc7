"""Reading a stream once, in order: every picture is looked at, handed on to be encoded, and
dropped; a listing remembers it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from tqdm.auto import tqdm

from lcm.data.config import DataConfig
from lcm.data.dropped import BAD_TEXT, NO_CAPTION, Dropped, leave_out
from lcm.data.load import drop_unusable, report_dropped
from lcm.data.loaded import LoadedData
from lcm.data.pictures import Picture, examined
from lcm.data.records import Record, fingerprint
from lcm.data.stream.listing import ListedRow, Listing
from lcm.data.stream.rows import FLAG, Stream
from lcm.system.processes import Team

logger = logging.getLogger(__name__)

AT_ONCE = 256
"""Pictures that a process holds in memory, still encoded; so many at most are read again after a
kill.
"""

Sink = Callable[[LoadedData], None]


def not_looked_at(record: Record) -> Picture:
    """The picture of a row without a caption, which is no sample whatever it shows."""
    return Picture("", 0, 0, BAD_TEXT if record.flaw else NO_CAPTION, record.flaw)


def load_stream(
    config: DataConfig, limit: int | None, team: Team, folder: Path, sink: Sink
) -> LoadedData:
    """The first `limit` usable samples of the stream, all without that, and how many
    others there are and why.

    What the listing in `folder` has is not read. Of the rest every process reads all,
    looks at its share of the pictures, and gives these to `sink`, which keeps what is needed of
    them: the records that are returned have none to open.

    Raises ValueError or ConnectionError, naming the fix, when nothing usable is left or reading
    fails; what was read stays.
    """
    stream = Stream(str(config.dataset_name), config)
    listing = shared_listing(stream, team, folder)
    known = len(listing.rows)
    left = None if limit is None else limit - usable(listing.rows)
    if not listing.whole and (left is None or left > 0):
        read_on(stream, listing, left, team, sink)
    rows = listing.rows[: how_many(listing, limit)]
    good = [(number, row) for number, row in enumerate(rows) if not row.picture.reason]
    records = [Record(stream.key(number), row.captions) for number, row in good]
    dropped = Dropped()
    for number, row in enumerate(rows):
        if row.picture.reason:
            leave_out(dropped, stream.key(number), row.picture.reason, row.picture.error)
    logger.info(
        "%s: %d rows as listed in %s, %d of them read now",
        stream.where,
        len(rows),
        folder,
        max(0, len(rows) - known),
    )
    report_dropped(config, records, dropped)
    pictures = [row.picture for _, row in good]
    return LoadedData(
        f"--{FLAG} {stream.where}", records, pictures, dropped, partial(reread, stream, listing)
    )


def shared_listing(stream: Stream, team: Team, folder: Path) -> Listing:
    """The rows that earlier runs have listed: one process looks for all. A local folder that has
    changed since has no listing.
    """
    listing, found = Listing(folder, stream.facts), []
    if team.rank == 0:
        listing.version = stream.version if stream.is_local else ""
        listing.read()
        found.append((listing.version, listing.rows, listing.starts, listing.whole))
    (listing.version, rows, starts, listing.whole), *_ = team.gather(found)
    listing.rows, listing.starts, stream.starts = list(rows), dict(starts), dict(starts)
    if not stream.is_local:
        stream.revision = listing.version or None
    return listing


def usable(rows: Sequence[ListedRow]) -> int:
    """How many of them are samples."""
    return sum(not row.picture.reason for row in rows)


def how_many(listing: Listing, limit: int | None) -> int:
    """The number of rows up to the last sample of `limit`."""
    good = [number for number, row in enumerate(listing.rows) if not row.picture.reason]
    return len(listing.rows) if limit is None or len(good) < limit else good[limit - 1] + 1


def read_on(stream: Stream, listing: Listing, left: int | None, team: Team, sink: Sink) -> None:
    """Adds so many samples to the listing, all without a number; never reads more rows than samples
    are missing yet.
    """
    listing.version = stream.version
    team.check_same(listing.version, "version of the data set", f"--{FLAG}")
    start, first = time.perf_counter(), len(listing.rows)
    records = stream.records(first)
    with tqdm(total=left, desc="reading the stream", unit="image", disable=team.rank != 0) as bar:
        while left != 0 and not listing.whole:
            room = AT_ONCE * team.size if left is None else min(AT_ONCE * team.size, left)
            rows = read_chunk(records, room, team, sink)
            listing.rows += rows
            listing.starts |= stream.starts
            listing.whole = len(rows) < room
            team.wait()  # a row is listed once what is needed of it is on the disk
            if team.rank == 0:
                listing.write(rows, listing.whole)
            bar.update(usable(rows))
            left = None if left is None else left - usable(rows)
    count, seconds = len(listing.rows) - first, time.perf_counter() - start
    logger.info(
        "%s: read and encoded %d rows in %.1f s, %.1f images/s",
        stream.where,
        count,
        seconds,
        count / seconds,
    )


def read_chunk(records: Iterator[Record], room: int, team: Team, sink: Sink) -> list[ListedRow]:
    """The next rows, `room` of them at most. Each process holds the pictures of its share alone."""
    is_mine = [number % team.size == team.rank for number in range(room)]
    chunk = [
        record if mine else replace(record, read=None)
        for mine, record in zip(is_mine, islice(records, room), strict=False)
    ]
    team.check_same(fingerprint(chunk), "data set", f"--{FLAG}")
    share = [
        number for number, record in enumerate(chunk) if record.read is not None and record.captions
    ]
    pictures = examined([chunk[number] for number in share])
    found = dict(sorted(team.gather(list(zip(share, pictures, strict=True)))))
    rows = [
        ListedRow(record.captions, found.get(number) or not_looked_at(record))
        for number, record in enumerate(chunk)
    ]
    good = zip(
        *drop_unusable([chunk[number] for number in found], list(found.values()), Counter()),
        strict=True,
    )
    mine = [(record, picture) for record, picture in good if record.read is not None]
    sink(
        LoadedData(
            FLAG, [record for record, _ in mine], [picture for _, picture in mine], Counter()
        )
    )
    return rows


def reread(stream: Stream, listing: Listing, keys: Collection[str]) -> Iterator[Record]:
    """The records of these keys in the order of the stream, with their pictures, read again from
    the stream.

    Raises ValueError where it is not what it was.
    """
    numbers = [number for number in range(len(listing.rows)) if stream.key(number) in keys]
    if not numbers:
        return
    first, last = numbers[0], numbers[-1]
    logger.info(
        "%s: the cache lacks %d of its pictures as they are wanted now; the stream is read again "
        "up to row %d",
        *(stream.where, len(numbers), last),
    )
    left = set(numbers)
    for number, record in enumerate(islice(stream.records(first), last - first + 1), first):
        if number not in left:
            continue
        row = listing.rows[number]
        if hashlib.sha256(record.open_bytes()).hexdigest() != row.picture.sha256:
            break
        left.remove(number)
        yield replace(record, captions=row.captions)
    if left:
        raise ValueError(
            f"{FLAG}: row {min(left)} of {stream.where} is no longer what was listed; remove "
            f"{listing.folder / listing.pattern} to read the stream anew"
        )
