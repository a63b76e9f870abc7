"""Whole runs on a stream."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from lcm.cli import main as cli
from lcm.data.precomputed.rows import stores
from lcm.data.report import DataReport
from lcm.data.stream.rows import Stream
from tests.support.damage import data_start, flip_bit
from tests.support.launches import forget_launch
from tests.support.listed import options, write_tables
from tests.support.outputs import losses
from tests.support.pictures import BLUE, encoded, plain
from tests.support.runs import flags, fork, run, trainer_of, update
from tests.support.samples import Example


def latents(cache: Path) -> dict[str, Any]:
    """Every row of the cache, whatever file it is in."""
    return {
        key: {name: tensor.tolist() for name, tensor in store[key].items()}
        for _, store in stores(cache)
        for key in store.places
    }


def begin(teacher: Path, **changes: Any) -> tuple[list[list[float]], DataReport]:
    """The losses of the first steps of a run that writes nothing but its cache, and what it says of
    its data.
    """
    forget_launch()
    trainer = trainer_of(flags(teacher, None, changes["cache_dir"].parent / "out", **changes))
    batches = trainer.run.inputs.batches(range(3))
    return [update(trainer, batches).loss.tolist() for _ in range(3)], trainer.run.facts.report


@pytest.mark.parametrize(
    "shapes", [{}, {"aspect_ratio_buckets": True, "cache_variants": 2}], ids=["squares", "buckets"]
)
def test_a_streamed_run_is_the_run_on_the_same_data_and_needs_the_stream_once(
    sd_folder: Path, hub: Path, tmp_path: Path, shapes: dict[str, Any]
) -> None:
    plainly = begin(sd_folder, **options(hub, "other", streaming=None, **shapes))
    first = begin(sd_folder, **options(hub, **shapes))
    shutil.rmtree(hub)
    second = begin(sd_folder, **options(hub, **shapes))
    assert first == second == plainly
    assert len(plainly[1].buckets) == (2 if shapes else 1)
    assert latents(tmp_path / "cache") == latents(tmp_path / "other")


def test_what_the_cache_has_lost_or_never_had_is_read_from_the_stream_again(
    sd_folder: Path, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["cache", "build", *flags(sd_folder, None, tmp_path / "out", **options(hub))]) == 0
    )
    before = latents(tmp_path / "cache")
    path = next(path for path in (tmp_path / "cache").glob("latents-*/*.safetensors"))
    flip_bit(path, data_start(path))
    begin(sd_folder, **options(hub))
    assert (
        "the cache lacks 1 of its pictures as they are wanted now; the stream is read again"
        in capsys.readouterr().err
    )
    assert latents(tmp_path / "cache") == before
    others = {"random_flip": True, "cache_variants": 3}
    streamed = begin(sd_folder, **options(hub, **others))
    made = latents(tmp_path / "cache")
    assert streamed == begin(sd_folder, **options(hub, streaming=None, **others))
    assert latents(tmp_path / "cache") == made and made.keys() > before.keys()


def test_a_row_that_changed_behind_the_listing_is_refused(
    sd_folder: Path, hub: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stream, "version", "the same")  # no time stamp tells it
    assert run(sd_folder, None, tmp_path / "first", **options(hub)) == 0
    assert not (tmp_path / "first" / "data_report.png").exists()
    shutil.rmtree(next((tmp_path / "cache").glob("latents-*")))
    write_tables(
        hub,
        [Example(f"{i}", encoded(plain(BLUE, size=(20, 20))), (f"picture {i}",)) for i in range(7)],
    )
    assert run(sd_folder, None, tmp_path / "second", **options(hub)) == 2
    said = capsys.readouterr().err
    assert "row 0 of" in said and "is no longer what was listed; remove" in said


def test_a_dry_run_reads_a_few_and_leaves_nothing(
    sd_folder: Path, hub: Path, tmp_path: Path, capsys: Any
) -> None:
    assert run(sd_folder, None, tmp_path / "out", **options(hub, dry_run=True)) == 0
    assert "2 rows as listed" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists() and not (tmp_path / "out").exists()


def test_two_processes_make_the_cache_that_one_makes(
    sd_folder: Path, hub: Path, tmp_path: Path
) -> None:
    assert run(sd_folder, None, tmp_path / "one", **options(hub, max_train_steps=1)) == 0
    two = fork(
        2,
        sd_folder,
        None,
        tmp_path / "two",
        **options(hub, "shared", max_train_steps=1, train_batch_size=1),
    )
    assert two.returncode == 0, two.stderr
    assert latents(tmp_path / "shared") == latents(tmp_path / "cache")
    (one_list,), (two_list,) = [
        [path.read_text() for path in (tmp_path / name).glob("stream-*.jsonl")]
        for name in ("cache", "shared")
    ]
    assert sorted(one_list.splitlines()) == sorted(two_list.splitlines())
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=1e-3)
