"""The contract of a source, for every entry of the table."""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import fields
from pathlib import Path

import datasets
import numpy as np
import pytest
from torch.utils.data import DataLoader

from lcm.config.run import FREE_TO_CHANGE
from lcm.data.batch import collate
from lcm.data.config import OTHER, SOURCE_FLAGS, DataConfig
from lcm.data.load import load_records
from lcm.data.sampler import StepSampler
from lcm.data.sources import SOURCES
from tests.support.pictures import COLORS
from tests.support.samples import THREE, Example
from tests.support.sources import WITH_IMAGES, WRITERS, config_of, load_source
from tests.support.squares import square_data

datasets.disable_progress_bars()


KEYS = {
    "train_data_dir": ["0.png", "1.png", "2.png"],
    "dataset_name": ["{}[0]", "{}[1]", "{}[2]"],
    "parquet_files": ["rows.parquet[0]", "rows.parquet[1]", "rows.parquet[2]"],
    "webdataset": ["shard.tar/0", "shard.tar/1", "shard.tar/2"],
    "prompts_file": ["000001#0", "000002#0", "000003#0"],
}
"""Random numbers follow from them, so they may never change; {} is the value of the flag."""


ADVICE = {
    "train_data_dir": r"add a metadata\.jsonl with file_name and text fields.*\.txt",
    "dataset_name": "column text is empty; pass --caption_column",
    "parquet_files": "column text is empty; pass --caption_column",
    "webdataset": r"put a \.txt or a \.json with the field text beside every image",
}


def test_every_source_is_tested_here_has_a_flag_and_may_move_between_runs() -> None:
    assert WRITERS.keys() == SOURCES.keys() == SOURCE_FLAGS.keys() - {OTHER}
    helps = {f.name: f.metadata["flag"].help for f in fields(DataConfig)}
    for flag in SOURCES:
        assert helps[flag] and SOURCE_FLAGS[flag]
        assert flag in FREE_TO_CHANGE


@pytest.mark.parametrize("flag", WITH_IMAGES)
def test_every_source_gives_the_same_pictures_and_captions(tmp_path: Path, flag: str) -> None:
    data = load_source(flag, tmp_path, THREE)
    assert [record.captions for record in data.records] == [example.captions for example in THREE]
    assert [record.image().getpixel((5, 4)) for record in data.records] == list(COLORS)
    assert len({record.key for record in data.records}) == 3
    assert ([(p.width, p.height) for p in data.pictures], data.dropped) == ([(6, 5)] * 3, {})
    assert data.source == f"--{flag} {WRITERS[flag](tmp_path, THREE)}"


@pytest.mark.parametrize("flag", SOURCES)
def test_the_keys_are_those_of_earlier_runs(tmp_path: Path, flag: str) -> None:
    config = config_of(flag, tmp_path, THREE)
    assert [record.key for record in load_records(config)] == [
        key.format(getattr(config, flag)) for key in KEYS[flag]
    ]


@pytest.mark.parametrize("flag", SOURCES)
def test_loading_twice_gives_the_same_samples(tmp_path: Path, flag: str) -> None:
    first, second = (
        load_source(flag, tmp_path / name, THREE, max_train_samples=2).records for name in "ab"
    )
    assert [(r.key.replace("/b/", "/a/"), r.captions, r.size) for r in second] == [
        (r.key, r.captions, r.size) for r in first
    ]
    assert len(first) == 2


@pytest.mark.parametrize("flag", WITH_IMAGES)
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_the_first_so_many_are_those_that_can_be_used(
    tmp_path: Path, flag: str, count: int
) -> None:
    broken = [Example(f"{name}.png", b"no picture", ("x",)) for name in ("00", "01", "11")]
    silent = Example("02.png", THREE[0].data, ())
    good = [
        dataclasses.replace(example, name=f"{name}.png")
        for name, example in zip(("03", "10", "12"), THREE, strict=True)
    ]
    data = load_source(
        flag,
        tmp_path,
        sorted([*broken, silent, *good], key=lambda example: example.name),
        max_train_samples=count,
    )
    assert [record.captions for record in data.records] == [example.captions for example in good][
        :count
    ]
    # what lies behind the last one that is wanted is not even looked at
    assert data.dropped["unreadable"] == (2 if count < 3 else 3)


@pytest.mark.parametrize("flag", WITH_IMAGES)
def test_where_nothing_is_left_every_reason_is_told(tmp_path: Path, flag: str) -> None:
    silent, broken = Example("0.png", THREE[0].data, ()), Example("1.png", b"no picture", ("x",))
    with pytest.raises(
        ValueError, match="no usable sample; dropped: 1 unreadable, 1 without a caption"
    ):
        load_source(flag, tmp_path, [silent, broken])
    with pytest.raises(ValueError, match="none of the 1 images has a caption"):
        load_source(flag, tmp_path / "silent", [silent])


@pytest.mark.parametrize("flag", SOURCES)
def test_what_is_not_there_is_one_error_that_names_the_flag(tmp_path: Path, flag: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=rf"{flag}: .*nowhere"):
        load_records(DataConfig(**{flag: str(tmp_path / "nowhere")}))


@pytest.mark.parametrize("flag", WITH_IMAGES)
def test_samples_without_a_caption_are_counted(tmp_path: Path, flag: str) -> None:
    silent = [
        Example(f"silent {i}.png", THREE[0].data, captions)
        for i, captions in enumerate([(), ("",), (" ", "\t\n")])
    ]
    data = load_source(flag, tmp_path, [*silent, THREE[1]])
    assert [record.captions for record in data.records] == [THREE[1].captions]
    assert data.dropped == {"without a caption": 3}


@pytest.mark.parametrize("flag", ADVICE)
def test_without_any_caption_the_error_says_how_this_source_has_them(
    tmp_path: Path, flag: str
) -> None:
    silent = [Example(f"{i}.png", THREE[0].data, ("",)) for i in range(2)]
    with pytest.raises(ValueError, match=f"none of the 2 images has a caption; .*{ADVICE[flag]}"):
        load_source(flag, tmp_path, silent)


@pytest.mark.parametrize("flag", WITH_IMAGES)
def test_worker_processes_read_the_same(tmp_path: Path, flag: str) -> None:
    records = load_records(config_of(flag, tmp_path, THREE))
    alone = square_data(records, 4, (4, 2, 2))
    sampler = StepSampler([np.arange(3)], 3, accumulation=1, process=(0, 1), steps=range(2), seed=0)
    for batch, group in zip(
        DataLoader(alone, batch_sampler=sampler, collate_fn=collate, num_workers=1),
        sampler,
        strict=True,
    ):
        expected = collate([alone[ref] for ref in group])
        assert batch.keys == expected.keys
        assert (batch.content.tensor == expected.content.tensor).all()
    copies = pickle.loads(pickle.dumps(records))
    assert [copy.image().getpixel((0, 0)) for copy in copies] == list(COLORS)
