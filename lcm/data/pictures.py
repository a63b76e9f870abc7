"""What is known of every picture, its content's hash and its size: each is decoded once, by one
process, and never again.
"""

from __future__ import annotations

import hashlib
import io
import os
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from lcm.data.formats import added, remedy
from lcm.data.journal import read_lines, write_lines
from lcm.data.records import Record, TooLargeError
from lcm.system.paths import is_regular
from lcm.system.processes import Team

JOURNALS = "pictures-*.jsonl"
TOO_LARGE = "too large to decode safely"
UNREADABLE = "unreadable"
BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError, TooLargeError)


@dataclass(frozen=True)
class Picture:
    """SHA-256 of the encoded file and the upright picture's size in pixels; or why it is left out,
    and the error behind that.
    """

    sha256: str
    width: int
    height: int
    reason: str = ""
    error: str = ""


FACTS = [str, int, int, str, str]
"""The types of what a journal has of a picture."""


def stamp_of_failure(record: Record) -> str:
    """The stamp of a picture that cannot be read with what is installed now."""
    return " ".join((record.stamp, *(one.format for one in added())))


def look_up(known: Mapping[str, Picture], record: Record) -> Picture | None:
    """What is remembered of the picture; of one that could not be read, only where nothing was
    installed since that reads more.
    """
    if not record.stamp:
        return None
    found = known.get(record.stamp)
    return found if found and not found.reason else known.get(stamp_of_failure(record))


def examine(record: Record) -> Picture:
    """Reads and decodes the picture. Raises ConnectionError, which says nothing of the picture."""
    digest, content = "", b""
    try:
        content = record.open_bytes()
        digest = hashlib.sha256(content).hexdigest()
        return Picture(digest, *record.decode(io.BytesIO(content)).size)
    except ConnectionError:
        raise
    except UnidentifiedImageError:  # whose text names an object in memory
        why = remedy(content=content[:16]) or "its content is none of these"
        return Picture(digest, 0, 0, UNREADABLE, why)
    except Exception as error:
        return Picture(
            digest, 0, 0, TOO_LARGE if isinstance(error, BOMBS) else UNREADABLE, str(error)
        )


def examined(records: Sequence[Record]) -> Iterator[Picture]:
    """The picture of every record, in order; several are examined at a time."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # before the threads start and until they end
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)))
        yield from pool.map(examine, records)


def remembered(folder: Path) -> dict[str, Picture]:
    """Stamp -> picture of all earlier runs."""
    known: dict[str, Picture] = {}
    for path in filter(is_regular, sorted(folder.glob(JOURNALS))):
        for stamp, *facts in read_lines(path, unchecked=1 + len(fields(Picture))):
            if isinstance(stamp, str) and [type(fact) for fact in facts] == FACTS:
                known[stamp] = Picture(*facts)
    return known


def survey(records: Sequence[Record], team: Team, folder: Path | None = None) -> list[Picture]:
    """The picture of every record: remembered in `folder`, or read now, each process its share, and
    written there.
    """
    known = remembered(folder) if folder else {}
    there = [look_up(known, record) for record in records]
    unknown = [number for number, picture in enumerate(there) if picture is None]
    # machines with copies of the data know different ones
    share = team.share(sorted(set(team.gather(unknown))))
    new = dict(team.gather(list(examine_share(records, share, team, folder))))
    # what another process lacked was looked at again
    return [new.get(number) or picture for number, picture in enumerate(there)]  # type: ignore[misc]


def examine_share(
    records: Sequence[Record], share: Sequence[int], team: Team, folder: Path | None
) -> Iterator[tuple[int, Picture]]:
    """(number, picture) of this process's share of the records, each noted in `folder` as soon as
    it is known: a run that is killed has not looked in vain.
    """
    with ExitStack() as stack:
        path = folder and folder / JOURNALS.replace("*", uuid.uuid4().hex)
        file = (
            stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
            if path and share
            else None
        )
        pictures = tqdm(
            examined([records[number] for number in share]),
            total=len(share),
            desc="checking images",
            leave=False,
            disable=None if team.rank == 0 else True,
        )
        for number, picture in zip(share, pictures, strict=True):
            if file and (stamp := records[number].stamp):
                stamp = stamp_of_failure(records[number]) if picture.reason else stamp
                write_lines(file, [[stamp, *astuple(picture)]])
            yield number, picture
