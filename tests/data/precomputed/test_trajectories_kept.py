"""Trajectories are made once and never twice, whatever is damaged or interrupted."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lcm.data.precomputed.store import Store
from lcm.data.precomputed.trajectories import TrajectorySpec, trajectory_key
from lcm.data.records import Record
from lcm.models.families import Family
from lcm.system.processes import Team
from tests.support.teams import at_once
from tests.support.trajectories import (
    DAMAGES,
    QUICK,
    SHAPE,
    as_stored,
    cached,
    count_rows,
    damage,
    made,
    prepare,
    records_of,
)


def times_of(paths: list[Path]) -> list[int]:
    return [path.stat().st_mtime_ns for path in paths]


def test_what_is_there_is_not_made_again(
    family: Family, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = prepare(family, records_of(70), folder, QUICK)
    paths = made(folder)
    before = times_of(paths)
    assert len(paths) == 2
    assert paths[0].parent.name == trajectory_key(family, records_of(70), QUICK)
    stored = load_file(paths[1])["trajectories"]
    assert (stored.shape, stored.dtype) == ((6, 2, *SHAPE[1:]), torch.float16)
    calls = count_rows(family, monkeypatch)
    again = prepare(family, records_of(70), folder, QUICK)
    assert (calls, times_of(paths)) == ([], before)
    assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))
    lines = [
        record.getMessage() for record in caplog.records if "trajectories in" in record.getMessage()
    ]
    assert [
        "0 found, 70 to make" in lines[0],
        "0 reused, 70 made in" in lines[1] and lines[1].endswith("0.1 MiB on disk"),
        "70 reused, 0 made; 0.1 MiB on disk" in lines[2],
        len(lines),
    ] == [True, True, True, 3]
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert names == {"manifest.json", *(path.name for path in paths)}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_alone_is_made_again(family: Family, folder: Path, kind: str) -> None:
    """Where the file can still be read, only the damaged trajectory is made again."""
    whole = prepare(family, records_of(130), folder, QUICK)
    paths = made(folder)
    before = times_of(paths)
    damage(paths[1], kind)
    again = prepare(family, records_of(130), folder, QUICK)
    assert times_of([paths[0], paths[2]]) == [before[0], before[2]]
    for index, (got, expected) in enumerate(zip(again, whole, strict=True)):
        # in a batch of its own: but for the last bits
        if kind.startswith("flipped") and 64 <= index < 128:
            torch.testing.assert_close(got, expected, **as_stored(expected))
        else:
            assert torch.equal(got, expected)


def test_an_interrupted_run_goes_on_where_it_stopped(
    family: Family, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = prepare(family, records_of(130), folder / "whole", QUICK, batch_size=32)
    forward, calls = family.unet.forward, [0]

    def stop(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:  # 2 batches a shard: in the middle of the second
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(family.unet, "forward", stop)
        prepare(family, records_of(130), folder / "parts", QUICK, batch_size=32)
    paths = made(folder / "parts")
    before = times_of(paths)
    assert len(paths) == 1
    got = prepare(family, records_of(130), folder / "parts", QUICK, batch_size=32)
    assert times_of(paths) == before
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_a_write_that_fails_leaves_nothing_behind(
    family: Family, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(family, records_of(2), folder)
    assert not [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "missing", [[], [0], [2], [0, 2, 4], [1, 3], [0, 3], [1, 2, 4, 5], [0, 1, 2, 3, 4, 5]], ids=str
)
def test_whatever_is_missing_is_shared_evenly(
    family: Family,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    missing: list[int],
) -> None:
    """Every file is looked at by one process, before any is made; every missing one is then made
    by one process.
    """
    records, rank = records_of(325), threading.local()
    events: list[tuple[str, int, int]] = []
    check = Store._bad_rows

    def look(store: Store, number: int) -> list[int] | None:
        keys = [int(key) for key, place in store.places.items() if place[0] == number]
        events.append(("look", -1, min(keys) // 64))  # in a thread of its own
        return check(store, number)

    def make(_family: Family, batch: list[Record], _spec: TrajectorySpec, _device: str) -> Tensor:
        rows = torch.tensor([int(record.key[:6]) - 1 for record in batch])
        events.append(("make", rank.value, int(rows[0]) // 64))
        return rows.float().view(-1, 1, 1, 1, 1).expand(-1, 2, *SHAPE[1:])

    monkeypatch.setattr(Store, "_bad_rows", look)
    monkeypatch.setattr("lcm.data.precomputed.trajectories.follow", make)
    rank.value = 0
    prepare(family, records, folder, QUICK, batch_size=64)
    paths = made(folder)
    for number in missing:
        paths[number].unlink()
    before = {path: path.stat().st_mtime_ns for path in made(folder)}
    events.clear()

    def process(team: Team) -> list[Tensor]:
        rank.value = team.rank
        return prepare(family, records, folder, QUICK, team=team, batch_size=64)

    results = at_once(process, processes)
    looked, makers = events[: len(before)], events[len(before) :]
    assert sorted((what, number) for what, _, number in looked) == [
        ("look", number) for number in range(6) if number not in missing
    ]
    assert sorted((what, number) for what, _, number in makers) == [
        ("make", number) for number in missing
    ]
    counts = Counter(index for _, index, _ in makers)
    shares = [counts[index] for index in range(processes)]
    assert max(shares) - min(shares) <= 1
    for result in results:
        assert [int(trajectory.unique()) for trajectory in result] == list(range(325))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_nothing_is_opened_before_all_processes_are_done(
    family: Family, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last process is still making its share while the others wait."""

    def make(_family: Family, batch: list[Record], spec: TrajectorySpec, _device: str) -> Tensor:
        time.sleep(0.2 * (batch[0].key > "000128"))
        return torch.zeros(len(batch), spec.num_steps + 1, *SHAPE[1:])

    def process(team: Team) -> int:
        return len(prepare(family, records_of(130), folder, team=team))

    monkeypatch.setattr("lcm.data.precomputed.trajectories.follow", make)
    assert at_once(process, 3) == [130] * 3


def test_a_folder_that_cannot_be_written_is_named(family: Family, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"trajectory_dir: .*file cannot be written"):
        prepare(family, records_of(1), tmp_path / "file")


def test_reading_in_any_order_and_after_pickling(family: Family, folder: Path) -> None:
    trajectories = cached(family, records_of(130), folder, QUICK)
    stored = torch.cat([load_file(path)["trajectories"] for path in made(folder)]).float()
    size = len(pickle.dumps(trajectories))
    for index in np.random.default_rng(0).permutation(130):
        assert torch.equal(trajectories[int(index)], stored[index])
    assert len(pickle.dumps(trajectories)) == size  # no file goes with it
    again = pickle.loads(pickle.dumps(trajectories))
    assert len(again) == 130
    assert torch.equal(again[129], stored[129])
    for index in (-1, 130):
        with pytest.raises(IndexError, match="130 trajectories"):
            trajectories[index]
