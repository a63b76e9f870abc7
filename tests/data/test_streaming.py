"""Streams: what they give is what the same data give unstreamed, they are read once, and whatever
stops them costs no row.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from accelerate.state import AcceleratorState

from lcm.cli import main as cli
from lcm.data.config import DataConfig
from lcm.data.load import load_data
from lcm.data.loaded import LoadedData
from lcm.data.precomputed.rows import stores
from lcm.data.report import DataReport
from lcm.data.sources.tables import content_of, is_part, without_secrets
from lcm.data.stream.read import load_stream
from lcm.data.stream.rows import Stream
from lcm.system.processes import ALONE, Team
from tests.support.damage import data_start, flip_bit
from tests.support.outputs import losses
from tests.support.pictures import BLUE, HOSTILE, encoded, plain
from tests.support.runs import flags, fork, run, trainer_of, update
from tests.support.samples import (
    STRUCT,
    Example,
    write_folder,
    write_members,
    write_parquet,
    write_rows,
)
from tests.support.teams import teams
from tests.support.worlds import write_images

COUNT = 10


def pictures_of(count: int = COUNT) -> list[Example]:
    """Each of another colour and size."""
    return [
        Example(f"{i:02d}.png", encoded(plain((9 * i, 0, 0), size=(6 + i, 5))), (f"picture {i}",))
        for i in range(count)
    ]


def write_tables(folder: Path, examples: list[Example]) -> Path:
    """Two parquet files with several groups of rows."""
    for name, part in (
        ("a", examples[: len(examples) // 2]),
        ("b", examples[len(examples) // 2 :]),
    ):
        cells = [{"bytes": example.data, "path": None} for example in part]
        table = datasets.Dataset.from_dict(
            {"image": cells, "text": [list(example.captions) for example in part]}
        )
        folder.mkdir(parents=True, exist_ok=True)
        table.cast_column("image", datasets.Image()).to_parquet(
            folder / f"{name}.parquet", batch_size=2
        )
    return folder


def write_tars(folder: Path, examples: list[Example]) -> Path:
    folder.mkdir()
    members = [
        (e.name, e.data, f"{Path(e.name).stem}.txt", e.captions[0].encode()) for e in examples
    ]
    write_members(
        folder / "shard.tar", [pair for a, b, c, d in members for pair in ((a, b), (c, d))]
    )
    return folder


def write_pictures(folder: Path, examples: list[Example]) -> Path:
    """One caption each, as `datasets` wants a column to have one type."""
    write_folder(folder, examples)
    rows = [
        json.dumps({"file_name": example.name, "text": example.captions[0]}) for example in examples
    ]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def write_zip(folder: Path, examples: list[Example]) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for path in sorted(write_pictures(folder.with_name("unpacked"), examples).iterdir()):
            archive.write(path, path.name)
    return folder


def write_saved(folder: Path, examples: list[Example]) -> Path:
    datasets.Dataset.from_parquet(write_parquet(folder.parent, examples)).save_to_disk(folder)
    return folder


KINDS: dict[str, tuple[Callable[[Path, list[Example]], Path], dict[str, Any]]] = {
    "parquet": (write_tables, {}),
    "tar": (write_tars, {"image_column": "png", "caption_column": "txt"}),
    "folder": (write_pictures, {}),
    "zip": (write_zip, {}),
    "save_to_disk": (write_saved, {}),
}


class Kept:
    """A sink that opens what it is given, as an encoder does, and keeps account."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.seen: dict[str, tuple[int, int]] = {}
        self.fail_at = fail_at

    def __call__(self, part: LoadedData) -> None:
        for record in part.records:
            if len(self.seen) == self.fail_at:
                raise KeyboardInterrupt
            assert record.key not in self.seen
            self.seen[record.key] = record.image().size


def config_of(where: Path, **changes: Any) -> DataConfig:
    cache = str(where.parent / "datasets")
    return DataConfig(dataset_name=str(where), streaming=True, cache_dir=cache, **changes)


def load(where: Path, sink: Kept | None = None, team: Team = ALONE, **changes: Any) -> LoadedData:
    notes = where.parent / "notes"
    notes.mkdir(exist_ok=True)
    limit = changes.pop("max_train_samples", None)
    return load_stream(config_of(where, **changes), limit, team, notes, sink or Kept())


def content(data: LoadedData) -> Any:
    return (
        [(record.key, record.captions, record.size) for record in data.records],
        data.pictures,
        dict(data.dropped),
        data.source,
    )


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return write_tables(tmp_path / "rows", pictures_of())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcm.data.stream.read.AT_ONCE", 3)


# --- what a stream gives --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_gives_what_the_same_data_give_unstreamed(tmp_path: Path, kind: str) -> None:
    write, columns = KINDS[kind]
    folder, sink = write(tmp_path / "rows", pictures_of()), Kept()
    streamed = load(folder, sink, **columns)
    assert content(streamed) == content(load_data(config_of(folder, **columns)))
    assert sink.seen == {f"{folder}[{i}]": (6 + i, 5) for i in range(COUNT)}
    assert all(record.read is None for record in streamed.records)


def test_hostile_rows_are_left_out_for_the_reasons_that_they_have_unstreamed(
    tmp_path: Path, caplog: Any
) -> None:
    cells = [{"bytes": data, "path": None} for data, _ in HOSTILE.values()]
    cells += [None, {"bytes": None, "path": None}]
    paths = [
        "/etc/passwd",
        "../out.png",
        "https://example.com/a.png",
        "hf://datasets/some/one@main/a.png",
        "zip://a::/etc/a.zip",
    ]
    cells += [{"bytes": None, "path": path} for path in paths]
    good = [{"bytes": example.data, "path": None} for example in pictures_of(4)]
    texts: list[Any] = [["x"]] * len(cells) + [[], None, ["", " "], ["good"]]
    path = write_rows(
        tmp_path / "rows" / "a.parquet", pa.array([*cells, *good], STRUCT), pa.array(texts)
    )
    (tmp_path / "out.png").write_bytes(pictures_of()[0].data)
    plainly = load_data(config_of(path.parent))
    caplog.clear()
    streamed = load(path.parent)
    assert content(streamed) == content(plainly)
    assert [record.captions for record in streamed.records] == [("good",)]
    assert streamed.dropped == {
        "unreadable": 9 + 2 + 5,
        "too large to decode safely": 2,
        "without a caption": 3,
    }
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len([line for line in warned if line.startswith("skipping ")]) == 18
    assert sum("is no part of" in line for line in warned) == 3
    assert content(load(path.parent)) == content(plainly)  # from the listing


def test_a_stream_without_a_usable_sample_says_why(tmp_path: Path) -> None:
    silent = [dataclasses.replace(example, captions=("",)) for example in pictures_of(4)]
    with pytest.raises(
        ValueError,
        match="none of the 4 images has a caption; its column text is empty; pass --caption_column",
    ):
        load(write_tables(tmp_path / "silent", silent))
    broken = [dataclasses.replace(example, data=b"no picture") for example in pictures_of(4)]
    with pytest.raises(ValueError, match="no usable sample; dropped: 4 unreadable"):
        load(write_tables(tmp_path / "broken", broken))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"image_column": "absent"},
            "has no column 'absent'; its columns are image, text, n; pass --image_column",
        ),
        (
            {"caption_column": "absent"},
            "has no column 'absent'; its columns are image, text, n; pass --caption_column",
        ),
        ({"image_column": "n"}, "column 'n' of .* holds no images"),
        ({"dataset_config_name": "absent"}, "could not be loaded: .*absent"),
    ],
)
def test_a_wrong_flag_is_named(tmp_path: Path, changes: dict[str, str], told: str) -> None:
    write_rows(
        tmp_path / "rows" / "a.parquet",
        pa.array([e.data for e in pictures_of(3)], pa.binary()),
        ["x"] * 3,
        n=[1, 2, 3],
    )
    with pytest.raises(ValueError, match=f"dataset_name: .*{told}"):
        load(tmp_path / "rows", **changes)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset_name: .*nowhere could not be loaded"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("hf://datasets/some/one@abc/train/a.png", True),
        ("zip://in/a.png::hf://datasets/some/one@abc/train.zip", True),
        ("hf://datasets/some/other@abc/a.png", False),
        ("hf://datasets/some/one-else@abc/a.png", False),
        ("hf://datasets/some/one@abc/../../other@abc/a.png", False),
        ("file:///etc/passwd::hf://datasets/some/one@abc/train.zip", False),
        ("https://example.com/a.png", False),
        ("file:///data/a.png", False),
        ("zip://a.png::/data/a.zip", True),
        ("zip://a.png::/data/../etc/a.zip", False),
        ("zip://a.png::/database/a.zip", False),
    ],
)
def test_cells_may_name_files_of_their_own_data_set_alone(path: str, part: bool) -> None:
    assert is_part(path, (Path("/data"),), "some/one") == part


def test_messages_carry_no_secrets() -> None:
    url = "https://cdn.example.com/a/b.parquet?X-Amz-Signature=abcdef&Expires=1"
    said = without_secrets(OSError(f"403 for url '{url}'\nwith token hf_abcdefghijkLMNOP"))
    assert said == "403 for url 'https://cdn.example.com/a/b.parquet' with token hf_..."


# --- reading once ---------------------------------------------------------------------------------


def test_a_second_run_opens_nothing(where: Path) -> None:
    first = load(where)
    shutil.rmtree(where)
    again = Kept()
    assert content(load(where, again)) == content(first) and not again.seen


def test_fewer_samples_are_the_first_of_more_and_no_row_is_read_twice_or_in_vain(
    where: Path,
) -> None:
    examples = [
        dataclasses.replace(e, data=b"broken") if i in (1, 4, 5) else e
        for i, e in enumerate(pictures_of())
    ]
    write_tables(where, examples)
    usable = [f"{where}[{i}]" for i in (0, 2, 3, 6, 7, 8, 9)]
    for before, count in ((0, 1), (1, 2), (2, 5), (5, 6), (6, 99)):
        sink = Kept()
        data = load(where, sink, max_train_samples=count)
        assert [record.key for record in data.records] == usable[:count]
        assert list(sink.seen) == usable[before:count]
        assert data.dropped["unreadable"] == {1: 0, 2: 1}.get(count, 3)
        assert content(data) == content(load_data(config_of(where, max_train_samples=count)))
    assert [record.key for record in load(where, max_train_samples=2).records] == usable[:2]
    assert [record.key for record in load(where).records] == usable


@pytest.mark.parametrize("fail_at", [0, 3, 5, 9])
def test_a_killed_reading_goes_on_where_it_was(where: Path, fail_at: int) -> None:
    first, second = Kept(fail_at), Kept()
    with pytest.raises(KeyboardInterrupt):
        load(where, first)
    data = load(where, second)
    listed = fail_at // 3 * 3  # three at a time
    assert list(second.seen) == [f"{where}[{i}]" for i in range(listed, COUNT)]
    assert content(data) == content(load_data(config_of(where)))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("limit", [None, 5])
def test_processes_share_the_pictures_and_all_know_all(
    where: Path, size: int, limit: int | None
) -> None:
    write_tables(
        where,
        [
            dataclasses.replace(e, data=b"broken") if i in (1, 2) else e
            for i, e in enumerate(pictures_of())
        ],
    )
    sinks = [Kept() for _ in range(size)]
    with ThreadPoolExecutor(size) as pool:
        given = zip(sinks, teams(size), strict=True)
        loaded = list(pool.map(lambda pair: load(where, *pair, max_train_samples=limit), given))
    expected = content(load_data(config_of(where, max_train_samples=limit)))
    assert all(content(data) == expected for data in loaded)
    seen = [key for sink in sinks for key in sink.seen]
    assert sorted(seen) == sorted(record.key for record in loaded[0].records)
    (path,) = (where.parent / "notes").iterdir()  # one process has written for all
    lines = [json.loads(line)[1:] for line in path.read_text().splitlines()]
    numbers = range(7 if limit else COUNT)
    assert [number for number, _ in lines if number != "shard"] == [
        "stream",
        *numbers,
        *([] if limit else [COUNT]),
    ]
    assert [start for number, start in lines if number == "shard"] == [[0, 0], [1, 5]]


def test_a_damaged_listing_is_trusted_up_to_the_damage(where: Path) -> None:
    first = load(where)
    (path,) = (where.parent / "notes").iterdir()
    whole = path.read_text()
    for damaged in (
        whole.replace("picture 6", "picture 7"),
        whole[: whole.index("picture 6")],
        whole.replace("[6]", "[6"),
    ):
        path.write_text(damaged)
        sink = Kept()
        assert content(load(where, sink)) == content(first)
        if damaged != whole:
            assert list(sink.seen) == [f"{where}[{i}]" for i in range(6, COUNT)]
        for other in (where.parent / "notes").iterdir():
            if other != path:
                other.unlink()


def test_a_local_folder_that_has_changed_is_read_anew(where: Path) -> None:
    load(where)
    write_tables(
        where, [dataclasses.replace(example, captions=("new",)) for example in pictures_of()]
    )
    os.utime(
        where / "a.parquet", (2e9, 2e9)
    )  # in case both were written within one tick of the clock
    sink = Kept()
    assert {record.captions for record in load(where, sink).records} == {("new",)}
    assert len(sink.seen) == COUNT


def test_other_columns_have_a_listing_of_their_own(where: Path) -> None:
    load(where)
    for name in "ab":
        table = datasets.Dataset.from_parquet(str(where / f"{name}.parquet"))
        table.add_column("other", ["other"] * len(table)).to_parquet(where / f"{name}.parquet")
    assert {record.captions for record in load(where, caption_column="other").records} == {
        ("other",)
    }


def test_a_stream_that_breaks_keeps_what_was_read(where: Path) -> None:
    path = where / "b.parquet"
    whole, time = path.read_bytes(), path.stat().st_mtime_ns
    path.write_bytes(whole[: len(whole) // 2])
    os.utime(path, ns=(time, time))
    with pytest.raises(
        ConnectionError, match=r"rows could not be read from row 5 on \(.*the same command goes on"
    ):
        load(where)
    path.write_bytes(whole)
    os.utime(path, ns=(time, time))
    sink = Kept()
    assert content(load(where, sink)) == content(load_data(config_of(where)))
    assert list(sink.seen) == [f"{where}[{i}]" for i in range(3, COUNT)]


def test_a_picture_that_the_network_withholds_is_not_taken_for_a_broken_one(
    where: Path, monkeypatch: Any
) -> None:
    def withhold(cell: Any, *rest: Any) -> Any:
        if cell["bytes"] == pictures_of()[4].data:
            raise ConnectionError("gone")
        return content_of(cell, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("lcm.data.stream.rows.content_of", withhold)
        with pytest.raises(
            ConnectionError, match=r"rows could not be read .*gone.*the same command goes on"
        ):
            load(where)
    assert content(load(where)) == content(load_data(config_of(where)))


def test_files_on_the_hub_are_fetched_and_its_failures_told_from_missing_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hub(address: str, _mode: str) -> io.BytesIO:
        if "absent" in address:
            raise FileNotFoundError(address)
        if "slow" in address:
            raise TimeoutError("https://cdn.example.com/a?token=1 timed out")
        return io.BytesIO(address.encode())

    monkeypatch.setattr("datasets.utils.file_utils.xopen", hub)
    base = "hf://datasets/some/one@abc"
    found = content_of({"bytes": None, "path": f"{base}/a.png"}, (), "some/one")
    assert isinstance(found, io.BytesIO) and found.getvalue() == f"{base}/a.png".encode()
    with pytest.raises(FileNotFoundError):
        content_of({"bytes": None, "path": f"{base}/absent.png"}, (), "some/one")
    with pytest.raises(
        ConnectionError, match=r"slow\.png: TimeoutError: https://cdn\.example\.com/a timed out$"
    ):
        content_of({"bytes": None, "path": f"{base}/slow.png"}, (), "some/one")


@pytest.mark.parametrize("already", [4, 5, 6, 8])
def test_files_that_were_read_are_not_opened_again(where: Path, already: int) -> None:
    whole = content(load_data(config_of(where)))
    load(where, max_train_samples=already)
    path, sink = where / "a.parquet", Kept()
    time = path.stat().st_mtime_ns
    pages = bytearray(path.read_bytes())
    pages[4 : len(pages) // 2] = bytes(len(pages) // 2 - 4)  # its schema, at the end, is looked at
    path.write_bytes(pages)
    os.utime(path, ns=(time, time))
    if already > 5:
        assert content(load(where, sink)) == whole
        assert list(sink.seen) == [f"{where}[{i}]" for i in range(already, COUNT)]
    else:  # nobody knows yet that the file ends there
        with pytest.raises(ConnectionError, match="could not be read from row 0 on"):
            load(where)


class OnTheHub:
    """Stands for the builder of a data set on the hub, whose branch moves between two calls."""

    def __init__(self, where: Path) -> None:
        self.real, self.where = datasets.load_dataset_builder, where
        self.head, self.asked = "a" * 40, []

    def __call__(
        self, name: str, config_name: Any = None, *, revision: str | None = None, **options: Any
    ) -> Any:
        assert name == "some/one"
        self.asked.append(revision)
        builder = self.real(str(self.where), config_name, **options)
        builder.base_path, builder.hash = (
            f"hf://datasets/{name}@{revision or self.head}",
            revision or self.head,
        )
        return builder


def test_a_listing_stays_with_the_commit_that_it_began_with(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, notes = OnTheHub(where), where.parent / "notes"
    notes.mkdir()
    monkeypatch.setattr("datasets.load_dataset_builder", hub)
    config = dataclasses.replace(config_of(where), dataset_name="some/one")
    load_stream(config, 4, ALONE, notes, Kept())
    hub.head = "b" * 40
    data = load_stream(config, None, ALONE, notes, Kept())
    assert hub.asked == [None, "a" * 40] and len(data.records) == COUNT
    load_stream(config, None, ALONE, notes, Kept())
    assert len(hub.asked) == 2


# --- whole runs -----------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Landscapes and portraits as parquet."""
    found = [
        write_images(tmp_path / "wide", 4, size=(24, 16)),
        write_images(tmp_path / "tall", 3, size=(17, 30)),
    ]
    paths = [path for folder in found for path in sorted(folder.glob("*.png"))]
    return write_tables(
        tmp_path / "hub",
        [Example(p.name, p.read_bytes(), (f"picture {i}",)) for i, p in enumerate(paths)],
    )


def options(hub: Path, cache: str = "cache", **changes: Any) -> dict[str, Any]:
    values = {
        "train_data_dir": None,
        "dataset_name": hub,
        "cache_dir": hub.parent / "datasets",
        "cache_latents": True,
    }
    quick = {
        "validation_prompts": ["x"],
        "validation_num_steps": [1],
        "validation_steps": 9,
        "checkpointing_steps": 9,
    }
    return {
        **values,
        **quick,
        "latent_cache_dir": hub.parent / cache,
        "max_train_steps": 3,
        "streaming": True,
        **changes,
    }


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
    AcceleratorState._reset_state(reset_partial_state=True)
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
