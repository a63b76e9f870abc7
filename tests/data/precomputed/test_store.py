"""The store: what is read back is what was written, and damage costs no more than itself."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lcm.data.precomputed.store import ROWS, Row, Store, Writer, drop_damaged, sweep, write_rows
from tests.support.damage import data_start, flip_bit


def rows_of(count: int, seed: int = 0) -> dict[str, Row]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{seed}-{i}": {
            "x": torch.randn(3, 2, generator=generator, dtype=torch.float16),
            "y": torch.randn(5, generator=generator).bfloat16(),
            "ids": torch.randint(0, 9, (4,), generator=generator),
        }
        for i in range(count)
    }


def equal(a: Row, b: Row) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


@pytest.mark.parametrize("count", [1, ROWS, 2 * ROWS + 1])
def test_what_is_written_is_read_back_bit_for_bit_also_in_another_process(
    tmp_path: Path, count: int
) -> None:
    rows = rows_of(count)
    writer = Writer(tmp_path)
    for key, row in rows.items():
        writer.add(key, row)
    writer.flush()
    for store in (Store(tmp_path), pickle.loads(pickle.dumps(Store(tmp_path)))):
        assert len(store) == count and "nothing" not in store
        assert all(equal(store[key], row) for key, row in rows.items())
    assert len(list(tmp_path.iterdir())) == -(-count // ROWS)


def test_rows_of_different_shapes_go_into_files_of_their_own(tmp_path: Path) -> None:
    rows = {str(i): {"x": torch.full((2, 2 + i % 3), float(i))} for i in range(9)}
    writer = Writer(tmp_path)
    for key, row in rows.items():
        writer.add(key, row)
    writer.flush()
    store = Store(tmp_path)
    assert len(store.files) == 3
    assert all(equal(store[key], row) for key, row in rows.items())


def test_every_flipped_bit_is_found_and_only_its_row_is_lost(tmp_path: Path) -> None:
    rows = rows_of(8)
    rng = np.random.default_rng(0)
    write_rows(tmp_path, rows)
    (path,) = Store(tmp_path).files
    whole, start = path.read_bytes(), data_start(path)
    for offset in rng.integers(start, len(whole), 12).tolist():
        path.write_bytes(whole)
        flip_bit(path, offset)
        damaged = Store(tmp_path).damaged(quiet=True)
        wrong = [
            i for i, (key, row) in enumerate(rows.items()) if not equal(Store(tmp_path)[key], row)
        ]
        assert damaged == {path: wrong} and len(wrong) == 1
    drop_damaged(damaged)
    store = Store(tmp_path)
    assert not store.damaged(quiet=True) and path not in store.files
    assert set(store.places) == {key for i, key in enumerate(rows) if i not in wrong}
    assert all(equal(store[key], rows[key]) for key in store.places)


@pytest.mark.parametrize("damage", ["cut", "cut in the header", "empty", "foreign", "entries"])
def test_a_file_that_cannot_be_read_is_found_and_goes(tmp_path: Path, damage: str) -> None:
    write_rows(tmp_path, rows_of(4, seed=1))
    (path,) = Store(tmp_path).files
    write_rows(tmp_path, rows_of(4, seed=2))
    content = path.read_bytes()
    broken = {
        "cut": content[:-1],
        "cut in the header": content[:100],
        "empty": b"",
        "foreign": b"GIF89a" * 50,
        "entries": content.replace(b'\\"1-0\\"', b'\\"1-0",'),
    }[damage]
    path.write_bytes(broken)
    store = Store(tmp_path)
    assert store.damaged(quiet=True) == {path: []}
    drop_damaged(store.damaged(quiet=True))
    left = Store(tmp_path)
    assert (
        not path.exists()
        and set(left.places) == set(rows_of(4, seed=2))
        and not left.damaged(quiet=True)
    )


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("lcm.data.precomputed.store.save_file", full)
    with pytest.raises(OSError, match="No space"):
        write_rows(tmp_path, rows_of(2))
    assert list(tmp_path.iterdir()) == []


def test_only_old_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    old = tmp_path / ".a.safetensors.part"
    new = tmp_path / ".b.safetensors.part"
    row = tmp_path / "c.safetensors"
    for path in (old, new, row):
        path.write_bytes(b"")
    sweep(tmp_path, older_than=1e9)
    assert old.exists() and new.exists()
    os.utime(old, (0, 0))
    sweep(tmp_path)
    assert not old.exists() and new.exists() and row.exists()
