"""Pictures are looked at once, each by one process."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from pathlib import Path

from PIL import Image

from lcm.data.config import DataConfig
from lcm.data.pictures import survey
from lcm.data.records import Record
from lcm.data.sources.folder import read_folder
from lcm.system.processes import Team
from tests.support.teams import at_once
from tests.support.worlds import write_images


def test_pictures_are_read_once_and_again_when_they_change(tmp_path: Path) -> None:
    images, notes = write_images(tmp_path / "images", 4), tmp_path / "notes"
    notes.mkdir()
    (images / "3.png").write_bytes(b"no image")
    (images / "2.png").write_bytes((images / "1.png").read_bytes())
    config = DataConfig(train_data_dir=str(images))
    records = list(read_folder(str(images), config, Counter()))
    first = survey(records, Team(), notes)
    assert [(p.width, p.height) for p in first] == [(20, 16)] * 3 + [(0, 0)]
    assert first[1].sha256 == first[2].sha256 != first[0].sha256
    assert (first[3].reason, first[3].error) == ("unreadable", "its content is none of these")
    (note,) = notes.iterdir()
    note.write_text(note.read_text()[:-20])  # as a kill leaves it: the last line is torn
    Image.new("RGB", (30, 40)).save(images / "0.png")
    read: list[str] = []
    records = list(read_folder(str(images), config, Counter()))
    counted = [
        dataclasses.replace(r, read=lambda r=r: read.append(r.key) or r.read()) for r in records
    ]
    second = survey(counted, Team(), notes)
    assert read == ["0.png", "3.png"]
    assert (second[0].width, second[0].height) == (30, 40) and second[1:] == first[1:]


def test_each_process_reads_its_share_of_the_pictures_and_knows_all(tmp_path: Path) -> None:
    read: list[str] = []

    def record(i: int) -> Record:
        buffer = io.BytesIO()
        Image.new("RGB", (8 + i, 9)).save(buffer, "PNG")
        return Record(str(i), ("x",), lambda: read.append(str(i)) or io.BytesIO(buffer.getvalue()))

    records = [record(i) for i in range(7)]
    one, two = at_once(lambda team: survey(records, team, tmp_path), 2)
    assert one == two and [p.width for p in one] == list(range(8, 15))
    assert sorted(read) == [r.key for r in records]


def test_machines_with_copies_of_the_pictures_remember_different_ones(tmp_path: Path) -> None:
    """One has read all of them before, the other none: stamps tell of paths and times."""
    folders = [write_images(tmp_path / f"images-{rank}", 5) for rank in range(2)]
    records = [
        list(read_folder(str(folder), DataConfig(train_data_dir=str(folder)), Counter()))
        for folder in folders
    ]
    notes = tmp_path / "notes"
    notes.mkdir()
    alone = survey(records[0], Team(), notes)
    found = at_once(lambda team: survey(records[team.rank], team, notes), 2)
    assert found == [alone, alone]
