"""One bad file of a cache costs itself: it is named, made again, and blocks nothing beside it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lcm.cli import main as cli
from lcm.data.config import CacheConfig, SampleConfig
from lcm.data.journal import read_lines
from lcm.data.pictures import Picture, remembered
from lcm.data.precomputed.latents import PictureSet
from lcm.data.precomputed.rows import MANIFEST, Rows
from lcm.data.precomputed.store import Store, write_rows
from lcm.data.records import Record
from lcm.outputs.folder import full_disk
from lcm.system.processes import Team

ENTRIES = ["[1, 2]", "null", "{}", '"x"', "[[1, 2]]", '[["a"]]', '[["a", null]]', "[" * 100_000]
ENTRIES += ["", "\\", '{"a": ' * 100_000, "[NaN]"]

MANIFESTS = ['{"kind": "rows", "mod', "", "[]", "null", "7", "{}", '{"kind": 7}', "[" * 100_000]


def rows_of(folder: Path, make: Any = lambda jobs: []) -> Rows:
    return Rows("rows", "rows", "latent_cache_dir", folder.name, {"model": "m"}, {"a": 1}, make)


def make(jobs: Any) -> Any:
    for key, _ in jobs:
        yield key, {"x": torch.ones(2)}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two folders with a row each."""
    for name in ("one", "two"):
        rows_of(tmp_path / name, make).fill(tmp_path, Team())
    return tmp_path


@pytest.mark.parametrize("entries", ENTRIES, ids=lambda text: text[:9])
def test_entries_that_are_none_are_damage(
    cache: Path, entries: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = cache / "one" / "bad.safetensors"
    save_file({"x": torch.ones(1, 2)}, bad, metadata={"entries": entries})
    assert len(Store(cache / "one")) == 1
    assert cli.main(["cache", "inspect", str(cache)]) == 0
    assert capsys.readouterr().out.count("1 rows") == 2
    assert cli.main(["cache", "verify", str(cache)]) == 1
    said = capsys.readouterr().out
    assert "bad.safetensors: all of it" in said and f"{cache / 'two'}: 1 rows, sound" in said
    filled = rows_of(cache / "one", make).fill(cache, Team())
    assert (filled.found, filled.made) == (1, 0) and not bad.exists()


@pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
def test_tensors_of_other_sizes_than_the_entries_say_are_damage(
    cache: Path, shape: tuple[int, ...]
) -> None:
    bad = cache / "one" / "bad.safetensors"
    metadata = {"entries": json.dumps([["b", "0" * 32]])}
    save_file({"x": torch.ones(shape)}, bad, metadata=metadata)
    assert Store(cache / "one").damaged(quiet=True) == {bad: []}
    shard = cache / "one" / "shard-00000.safetensors"
    save_file({"trajectories": torch.ones(shape)}, shard, metadata={"sha256": "0" * 64})
    assert shard in Store(cache / "one").damaged(quiet=True)


@pytest.mark.parametrize("text", MANIFESTS, ids=lambda text: text[:9])
def test_a_manifest_that_says_nothing_is_named_and_written_anew(
    cache: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cache / "one" / MANIFEST
    whole = path.read_text()
    path.write_text(text)
    assert cli.main(["cache", "inspect", str(cache)]) == 1
    said = capsys.readouterr().out
    assert str(path) in said and f"{cache / 'two'}: rows; model m" in said
    assert cli.main(["cache", "verify", str(cache)]) == 1
    out, err = capsys.readouterr()
    assert str(path) in err and out.count("1 rows, sound") == 2
    rows_of(cache / "one", make).fill(cache, Team())
    assert path.read_text() == whole
    assert cli.main(["cache", "inspect", str(cache)]) == 0


def test_pipes_in_a_cache_are_not_opened(cache: Path) -> None:
    for name in ("one/pipe.safetensors", "pictures-pipe.jsonl"):
        os.mkfifo(cache / name)
    (cache / "two" / MANIFEST).unlink()
    os.mkfifo(cache / "two" / MANIFEST)
    assert not Store(cache / "one").damaged(quiet=True) and remembered(cache) == {}
    assert cli.main(["cache", "inspect", str(cache)]) == 1


@pytest.mark.parametrize("line", ["[" * 100_000, "7", '{"a": 1}', "[]", '["stamp", 1, 2, 3, 4, 5]'])
def test_lines_of_a_journal_that_are_none_count_as_not_written(tmp_path: Path, line: str) -> None:
    known = json.dumps(["stamp", "0" * 64, 6, 5, "", ""])
    (tmp_path / "pictures-0.jsonl").write_text(f"{line}\n{known}\n")
    assert remembered(tmp_path) == {"stamp": Picture("0" * 64, 6, 5)}
    assert list(read_lines(tmp_path / "pictures-0.jsonl", unchecked=6))


def test_a_full_disk_of_the_cache_is_measured_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lcm.data.precomputed.store.save_file", full)
    monkeypatch.setattr(
        "lcm.outputs.folder.free_bytes", lambda folder: 12 if "cache" in str(folder) else 1 << 40
    )
    (tmp_path / "cache").mkdir()
    with pytest.raises(OSError, match="No space") as error:
        write_rows(tmp_path / "cache", {"a": {"x": torch.ones(1)}})
    told = str(full_disk(error.value, [tmp_path / "out"]))
    assert f"the disk of {tmp_path / 'cache'} is full, free are 12 bytes" in told


def test_more_crops_than_can_be_kept_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cache_variants must .* at most 1000"):
        CacheConfig(cache_latents=True, cache_variants=10**9)
    pictures = PictureSet([Record("a", ("x",))] * 200_000, [], None, SampleConfig(), 0, 1000)
    with pytest.raises(ValueError, match="cache_variants: 1000 crops of 200000 pictures"):
        pictures.jobs()
