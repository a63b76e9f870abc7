"""What is odd or hostile in the samples themselves, carried by every source."""

from __future__ import annotations

import io
import logging
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from lcm.data.config import DataConfig
from lcm.data.load import load_data
from tests.support.pictures import BLUE, GREEN, HOSTILE, RED, WHITE, encoded, plain
from tests.support.samples import THREE, Example
from tests.support.sources import WITH_IMAGES, load_source

datasets.disable_progress_bars()


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


NAMES = [
    "größer 貓.png",
    'it\'s "quoted".png',
    "a b  c.png",
    "%20$HOME;&.png",
    "deep/er/still/x.png",
    "x" * 120 + ".png",
    "-rf.png",
]


@pytest.mark.parametrize("flag", WITH_IMAGES)
def test_odd_pictures_look_as_in_a_viewer_on_a_white_page(tmp_path: Path, flag: str) -> None:
    data = load_source(
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
    data = load_source(flag, tmp_path, [*examples, Example("good.png", THREE[0].data, ("good",))])
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
        load_source("train_data_dir", tmp_path, examples)


@pytest.mark.parametrize("flag", ["train_data_dir", "webdataset"])
def test_names_may_hold_anything(tmp_path: Path, flag: str) -> None:
    data = load_source(flag, tmp_path, [Example(name, THREE[0].data, (name,)) for name in NAMES])
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
        data = load_source(
            flag,
            tmp_path,
            [Example(bad, THREE[0].data, ("bad",)), Example("a.png", THREE[0].data, ("good",))],
        )
    assert [record.captions for record in data.records] == [("good",)]
    assert data.dropped == {"with a name that is not UTF-8": 1}


@pytest.mark.parametrize("flag", ["train_data_dir", "webdataset"])
def test_a_caption_with_half_a_surrogate_pair_is_left_out(tmp_path: Path, flag: str) -> None:
    """JSON can spell one. No tokenizer takes it, and a run would end in its middle."""
    half = Example("a.png", THREE[0].data, ("a \ud83d ball",))
    data = load_source(flag, tmp_path, [half, THREE[1]])
    assert [record.captions for record in data.records] == [THREE[1].captions]
    assert data.dropped == {"with captions that are not UTF-8": 1}
