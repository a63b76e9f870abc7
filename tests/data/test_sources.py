"""The contract of a source, for every entry of the table; what is odd or hostile in the samples
themselves.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from lcm.config.run import FREE_TO_CHANGE
from lcm.data.batch import collate
from lcm.data.config import SOURCE_FLAGS, DataConfig
from lcm.data.load import load_data, load_records
from lcm.data.loaded import LoadedData
from lcm.data.sampler import StepSampler
from lcm.data.sources import SOURCES
from tests.support.pictures import (
    BLUE,
    COLORS,
    GREEN,
    HOSTILE,
    RED,
    WHITE,
    encoded,
    plain,
)
from tests.support.samples import (
    THREE,
    Example,
    table_of,
    write_folder,
    write_members,
    write_parquet,
)
from tests.support.squares import square_data

datasets.disable_progress_bars()


def write_dataset(folder: Path, examples: list[Example]) -> str:
    table_of(examples).save_to_disk(folder / "saved")
    return str(folder / "saved")


def write_webdataset(folder: Path, examples: list[Example]) -> str:
    members = []
    for example in examples:
        stem = example.name.partition(".")[0]
        members += [
            (example.name, example.data),
            (f"{stem}.json", json.dumps({"text": example.captions}).encode()),
        ]
    return str(write_members(folder / "shard.tar", members))


def write_prompts(folder: Path, examples: list[Example]) -> str:
    (folder / "prompts.txt").write_text(
        "".join(f"{next(iter(example.captions), '')}\n" for example in examples)
    )
    return str(folder / "prompts.txt")


WRITERS: dict[str, Callable[[Path, list[Example]], str]] = {
    "train_data_dir": write_folder,
    "dataset_name": write_dataset,
    "parquet_files": write_parquet,
    "webdataset": write_webdataset,
    "prompts_file": write_prompts,
}
WITH_IMAGES = [flag for flag, source in SOURCES.items() if source.has_images]


def config_of(flag: str, folder: Path, examples: list[Example], **changes: Any) -> DataConfig:
    folder.mkdir(exist_ok=True, parents=True)
    return DataConfig(
        **{flag: WRITERS[flag](folder, examples), "cache_dir": str(folder / "cache"), **changes}
    )


def load(flag: str, folder: Path, examples: list[Example], **changes: Any) -> LoadedData:
    return load_data(config_of(flag, folder, examples, **changes))


# the contract


def test_every_source_is_tested_here_has_a_flag_and_may_move_between_runs() -> None:
    assert WRITERS.keys() == SOURCES.keys() == SOURCE_FLAGS.keys()
    helps = {f.name: f.metadata["flag"].help for f in fields(DataConfig)}
    for flag in SOURCES:
        assert helps[flag] and SOURCE_FLAGS[flag]
        assert flag in FREE_TO_CHANGE


@pytest.mark.parametrize("flag", WITH_IMAGES)
def test_every_source_gives_the_same_pictures_and_captions(tmp_path: Path, flag: str) -> None:
    data = load(flag, tmp_path, THREE)
    assert [record.captions for record in data.records] == [example.captions for example in THREE]
    assert [record.image().getpixel((5, 4)) for record in data.records] == list(COLORS)
    assert len({record.key for record in data.records}) == 3
    assert ([(p.width, p.height) for p in data.pictures], data.dropped) == ([(6, 5)] * 3, {})
    assert data.source == f"--{flag} {WRITERS[flag](tmp_path, THREE)}"


KEYS = {
    "train_data_dir": ["0.png", "1.png", "2.png"],
    "dataset_name": ["{}[0]", "{}[1]", "{}[2]"],
    "parquet_files": ["rows.parquet[0]", "rows.parquet[1]", "rows.parquet[2]"],
    "webdataset": ["shard.tar/0", "shard.tar/1", "shard.tar/2"],
    "prompts_file": ["000001#0", "000002#0", "000003#0"],
}
"""Random numbers follow from them, so they may never change; {} is the value of the flag."""


@pytest.mark.parametrize("flag", SOURCES)
def test_the_keys_are_those_of_earlier_runs(tmp_path: Path, flag: str) -> None:
    config = config_of(flag, tmp_path, THREE)
    assert [record.key for record in load_records(config)] == [
        key.format(getattr(config, flag)) for key in KEYS[flag]
    ]


@pytest.mark.parametrize("flag", SOURCES)
def test_loading_twice_gives_the_same_samples(tmp_path: Path, flag: str) -> None:
    first, second = (
        load(flag, tmp_path / name, THREE, max_train_samples=2).records for name in "ab"
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
    data = load(
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
        load(flag, tmp_path, [silent, broken])
    with pytest.raises(ValueError, match="none of the 1 images has a caption"):
        load(flag, tmp_path / "silent", [silent])


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
    data = load(flag, tmp_path, [*silent, THREE[1]])
    assert [record.captions for record in data.records] == [THREE[1].captions]
    assert data.dropped == {"without a caption": 3}


ADVICE = {
    "train_data_dir": r"add a metadata\.jsonl with file_name and text fields.*\.txt",
    "dataset_name": "column text is empty; pass --caption_column",
    "parquet_files": "column text is empty; pass --caption_column",
    "webdataset": r"put a \.txt or a \.json with the field text beside every image",
}


@pytest.mark.parametrize("flag", ADVICE)
def test_without_any_caption_the_error_says_how_this_source_has_them(
    tmp_path: Path, flag: str
) -> None:
    silent = [Example(f"{i}.png", THREE[0].data, ("",)) for i in range(2)]
    with pytest.raises(ValueError, match=f"none of the 2 images has a caption; .*{ADVICE[flag]}"):
        load(flag, tmp_path, silent)


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


# odd and hostile pictures: a source only carries them, so all sources are given all of them


def transparent(mode: str, color: Any, **options: Any) -> bytes:
    return encoded(plain(color, mode), **options)


def palette_with_a_hidden_color() -> bytes:
    image = plain(0, "P")
    image.putpalette([*RED, *GREEN])
    return encoded(image, transparency=0)


def animation(kind: str) -> bytes:
    return encoded(plain(RED), kind, save_all=True, append_images=[plain(BLUE)], lossless=True)


def upside_down() -> bytes:
    """Stored blue over red, to be turned by half: red is above."""
    image = plain(BLUE, size=(32, 32))
    image.paste(RED, (0, 16, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 3
    return encoded(image, "JPEG", exif=exif, quality=95)


ODD: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "grey": (encoded(plain(77, "L")), (77, 77, 77)),
    "grey with alpha": (encoded(plain((77, 255), "LA")), (77, 77, 77)),
    "one bit": (encoded(plain(1, "1")), WHITE),
    "16 bits": (encoded(plain(0x8080, "I;16")), (128, 128, 128)),
    "palette": (encoded(plain(RED).convert("P", palette=Image.Palette.ADAPTIVE)), RED),
    "cmyk": (encoded(plain((0, 255, 255, 0), "CMYK"), "JPEG", quality=95), RED),
    "one pixel": (encoded(plain(GREEN, size=(1, 1))), GREEN),
    "hidden red": (transparent("RGBA", (*RED, 0)), WHITE),
    "half red": (transparent("RGBA", (*RED, 128)), (255, 127, 127)),
    "hidden black": (transparent("LA", (0, 0)), WHITE),
    "hidden palette": (palette_with_a_hidden_color(), WHITE),
    "hidden colour key": (transparent("RGB", RED, transparency=RED), WHITE),
    "other colour key": (transparent("RGB", BLUE, transparency=RED), BLUE),
    "hidden grey key": (transparent("L", 9, transparency=9), WHITE),
    "hidden webp": (encoded(plain((*RED, 0), "RGBA"), "WEBP", lossless=True, exact=True), WHITE),
    "animated png": (animation("PNG"), RED),
    "animated webp": (animation("WEBP"), RED),
    "pages": (encoded(plain(RED), "TIFF", save_all=True, append_images=[plain(BLUE)]), RED),
    "upside down": (upside_down(), RED),
}


@pytest.mark.parametrize("flag", WITH_IMAGES)
def test_odd_pictures_look_as_in_a_viewer_on_a_white_page(tmp_path: Path, flag: str) -> None:
    data = load(
        flag,
        tmp_path,
        [
            Example(f"{i:02d} {name}.png", data, (name,))
            for i, (name, (data, _)) in enumerate(ODD.items())
        ],
    )
    assert [record.captions for record in data.records] == [(name,) for name in ODD]
    for record in data.records:
        image = record.image()
        assert image.mode == "RGB"
        np.testing.assert_allclose(
            image.getpixel((0, 0)), ODD[record.captions[0]][1], atol=6, err_msg=record.captions[0]
        )


@pytest.mark.parametrize("flag", WITH_IMAGES)
def test_hostile_pictures_are_left_out_named_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, flag: str
) -> None:
    examples = [
        Example(f"{i:02d}.png", data, (name,))
        for i, (name, (data, _)) in enumerate(HOSTILE.items())
    ]
    data = load(flag, tmp_path, [*examples, Example("good.png", THREE[0].data, ("good",))])
    assert [record.captions for record in data.records] == [("good",)]
    assert data.dropped == {"unreadable": 9, "too large to decode safely": 2}
    warnings = [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ]
    assert len([warning for warning in warnings if warning.startswith("skipping ")]) == len(HOSTILE)
    assert any("floating-point" in warning for warning in warnings)
    assert any("more than 16 bits" in warning for warning in warnings)


def test_a_list_without_a_usable_sample_ends_with_all_reasons(tmp_path: Path) -> None:
    examples = [
        Example(f"{i:02d}.png", data, (name,))
        for i, (name, (data, _)) in enumerate(HOSTILE.items())
    ]
    with pytest.raises(
        ValueError, match="no usable sample; dropped: 2 too large to decode safely, 9 unreadable"
    ):
        load("train_data_dir", tmp_path, examples)


NAMES = [
    "größer 貓.png",
    'it\'s "quoted".png',
    "a b  c.png",
    "%20$HOME;&.png",
    "deep/er/still/x.png",
    "x" * 120 + ".png",
    "-rf.png",
]


@pytest.mark.parametrize("flag", ["train_data_dir", "webdataset"])
def test_names_may_hold_anything(tmp_path: Path, flag: str) -> None:
    data = load(flag, tmp_path, [Example(name, THREE[0].data, (name,)) for name in NAMES])
    named = {record.captions[0]: record.key for record in data.records}
    prefix, suffix = {"train_data_dir": ("", ".png"), "webdataset": ("shard.tar/", "")}[flag]
    assert named == {name: prefix + name.removesuffix(".png") + suffix for name in NAMES}
    assert all(record.image().size == (6, 5) for record in data.records)


@pytest.mark.parametrize("flag", ["train_data_dir", "webdataset"])
def test_a_name_that_is_not_utf8_has_no_random_numbers_and_is_left_out(
    tmp_path: Path, flag: str
) -> None:
    bad = "\udcff.png"  # how Python reads the byte 0xff
    try:
        (tmp_path / bad).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    (tmp_path / bad).unlink()
    if flag == "webdataset":
        with tarfile.open(
            tmp_path / "shard.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape"
        ) as archive:
            for name, data in [
                (bad, THREE[0].data),
                ("\udcff.txt", b"bad"),
                ("a.png", THREE[0].data),
                ("a.txt", b"good"),
            ]:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        data = load_data(DataConfig(webdataset=str(tmp_path / "shard.tar")))
    else:
        data = load(
            flag,
            tmp_path,
            [Example(bad, THREE[0].data, ("bad",)), Example("a.png", THREE[0].data, ("good",))],
        )
    assert [record.captions for record in data.records] == [("good",)]
    assert data.dropped == {"with a name that is not UTF-8": 1}


@pytest.mark.parametrize("flag", ["train_data_dir", "webdataset"])
def test_half_a_surrogate_pair_in_json_becomes_a_question_mark(tmp_path: Path, flag: str) -> None:
    """No tokenizer takes one, and a run would end in its middle."""
    data = load(flag, tmp_path, [Example("a.png", THREE[0].data, ("a \ud83d ball",))])
    assert data.records[0].captions == ("a ? ball",)


# folders


def test_every_line_of_a_text_file_is_a_caption(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(THREE[0].data)
    (tmp_path / "a.txt").write_bytes("one\r\n\r\n  two \u2028 halves\t\n \nthree".encode())
    (record,) = load_records(DataConfig(train_data_dir=str(tmp_path)))
    assert record.captions == ("one", "two \u2028 halves", "three")


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_rows_of_one_file_add_up(tmp_path: Path, layout: str) -> None:
    (tmp_path / "a.png").write_bytes(THREE[0].data)
    rows = [("a.png", "one"), ("./a.png", "two"), ("a.png", "one"), ("a.png", " ")]
    if layout == "metadata.csv":
        (tmp_path / layout).write_text(
            "\n".join(["file_name,text", *(",".join(row) for row in rows)])
        )
    else:
        (tmp_path / layout).write_text(
            "\n".join(json.dumps({"file_name": name, "text": text}) for name, text in rows)
        )
    (record,) = load_records(DataConfig(train_data_dir=str(tmp_path)))
    assert record.captions == ("one", "two")


def test_pictures_of_other_formats_in_a_folder_are_counted(tmp_path: Path) -> None:
    write_folder(
        tmp_path,
        [THREE[0], Example("notes.doc", b"", ("listed",)), Example("movie.gif", b"", ("listed",))],
    )
    for name in ("photo.HEIC", "deep/drawing.svg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "read me.md").write_text("not counted: nobody takes it for a picture")
    data = load_data(DataConfig(train_data_dir=str(tmp_path)))
    assert (len(data.records), data.dropped) == (
        1,
        {"in another format than PNG, JPEG, WEBP, BMP, TIFF": 4},
    )
