"""What is known of every picture, its content's hash and its size: each is decoded once, by one
process, and never again.
"""

from __future__ import annotations

import hashlib
import io
import os
import uuid
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from lcm.data.journal import read_lines, write_lines
from lcm.data.records import Record
from lcm.system.processes import Team

JOURNALS = "pictures-*.jsonl"
TOO_LARGE = "too large to decode safely"
UNREADABLE = "unreadable"


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


def examine(record: Record) -> Picture:
    """Reads and decodes the picture. Raises ConnectionError, which says nothing of the picture."""
    digest = ""
    try:
        content = record.open_bytes()
        digest = hashlib.sha256(content).hexdigest()
        return Picture(digest, *record.decode(io.BytesIO(content)).size)
    except ConnectionError:
        raise
    except UnidentifiedImageError:  # whose text names an object in memory
        return Picture(digest, 0, 0, UNREADABLE, "its content is none of these")
    except Exception as error:
        is_bomb = isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError)
        return Picture(digest, 0, 0, TOO_LARGE if is_bomb else UNREADABLE, str(error))


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
    for path in sorted(folder.glob(JOURNALS)):
        for stamp, *facts in read_lines(path, unchecked=1 + len(fields(Picture))):
            if isinstance(stamp, str):
                known[stamp] = Picture(*facts)
    return known


def survey(records: Sequence[Record], team: Team, folder: Path | None = None) -> list[Picture]:
    """The picture of every record: remembered in `folder`, or read now, each process its share, and
    written there.
    """
    known = remembered(folder) if folder else {}
    unknown = [
        number
        for number, record in enumerate(records)
        if not record.stamp or record.stamp not in known
    ]
    # machines with copies of the data know different ones
    share = team.share(sorted(set(team.gather(unknown))))
    new = dict(team.gather(list(examine_share(records, share, team, folder))))
    return [
        new[number] if number in new else known[record.stamp]
        for number, record in enumerate(records)
    ]


def examine_share(
    records: Sequence[Record], share: Sequence[int], team: Team, folder: Path | None
) -> Iterator[tuple[int, Picture]]:
    """(number, picture) of this process's share of the records, each noted in `folder` as soon as
    it is known: a run that is killed has not looked in vain.
    """
    with ExitStack() as stack:
        path = folder and folder / JOURNALS.replace("*", uuid.uuid4().hex)
        file = stack.enter_context(path.open("w", encoding="utf-8")) if path and share else None
        pictures = tqdm(
            examined([records[number] for number in share]),
            total=len(share),
            desc="checking images",
            leave=False,
            disable=None if team.rank == 0 else True,
        )
        for number, picture in zip(share, pictures, strict=True):
            if file and records[number].stamp:
                write_lines(file, [[records[number].stamp, *astuple(picture)]])
            yield number, picture
