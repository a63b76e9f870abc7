"""What is known of every picture, its content's hash and its size: each is decoded once, by one
process, and never again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from lcm.system.processes import Team

if TYPE_CHECKING:
    from lcm.data.records import Record

PREFIX = "pictures-"
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
    """Of every record, in order; several are examined at a time."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter(
            "error", Image.DecompressionBombWarning
        )  # before the threads start and until they end
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)))
        yield from pool.map(examine, records)


def remembered(folder: Path) -> dict[str, Picture]:
    """Stamp -> picture of all earlier runs. Lines that a killed run left torn are passed over:
    those pictures are read again.
    """
    known: dict[str, Picture] = {}
    for path in sorted(folder.glob(f"{PREFIX}*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                stamp, *facts = json.loads(line)
                known[stamp] = Picture(*facts)
            except (ValueError, TypeError):
                continue
    return known


def survey(records: Sequence[Record], team: Team, notes: Path | None = None) -> list[Picture]:
    """The picture of every record: remembered in the folder `notes`, or read now, each process its
    share, and written there.
    """
    known = remembered(notes) if notes else {}
    unknown = [
        number
        for number, record in enumerate(records)
        if not record.stamp or record.stamp not in known
    ]
    share = team.share(
        sorted(set(team.gather(unknown)))
    )  # machines with copies of the data know different ones
    found: list[tuple[int, Picture]] = []
    with ExitStack() as stack:
        path = notes and notes / f"{PREFIX}{uuid.uuid4().hex}.jsonl"
        file = stack.enter_context(path.open("w", encoding="utf-8")) if path and share else None
        pictures = examined([records[number] for number in share])
        shown = tqdm(
            pictures,
            total=len(share),
            desc="checking images",
            leave=False,
            disable=None if team.rank == 0 else True,
        )
        for number, picture in zip(share, shown, strict=True):
            found.append((number, picture))
            if file and records[number].stamp:
                file.write(json.dumps([records[number].stamp, *astuple(picture)]) + "\n")
                file.flush()
    new = dict(team.gather(found))
    return [
        new[number] if number in new else known[record.stamp]
        for number, record in enumerate(records)
    ]
