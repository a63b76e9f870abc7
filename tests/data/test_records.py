"""Pictures as RGB whatever they are stored as, and the fingerprint of all samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcm.data.config import DataConfig
from lcm.data.load import load_records
from lcm.data.records import Record, fingerprint
from tests.support.folders import load_folder, make_folder, save_image, write_captions
from tests.support.worlds import write_images

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)


STORED_CORNERS = {
    1: (RED, GREEN, BLUE, GREY),
    2: (GREEN, RED, GREY, BLUE),
    3: (GREY, BLUE, GREEN, RED),
    4: (BLUE, GREY, RED, GREEN),
    5: (RED, BLUE, GREEN, GREY),
    6: (GREEN, GREY, RED, BLUE),
    7: (GREY, GREEN, BLUE, RED),
    8: (BLUE, RED, GREY, GREEN),
}
"""What a camera stores at top left, top right, bottom left, bottom right under each EXIF
orientation when it sees red, green, blue, grey there.
"""


def unread() -> Path:
    raise AssertionError("the fingerprint must not read images")


def named(*entries: tuple[str, tuple[str, ...]]) -> list[Record]:
    return [Record(key, captions, unread) for key, captions in entries]


FIRST = (("a", ("x", "y")), ("b", ("z",)))


@pytest.mark.parametrize(
    ("mode", "color", "want"),
    [
        ("RGB", (200, 10, 20), (200, 10, 20)),
        ("RGBA", (200, 10, 20, 255), (200, 10, 20)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("P", (200, 10, 20), (200, 10, 20)),
        ("I;16", 0x8080, (128, 128, 128)),
    ],
)
def test_every_kind_of_png_comes_out_as_rgb(
    tmp_path: Path, mode: str, color: Any, want: tuple[int, int, int]
) -> None:
    save_image(tmp_path / "a.png", color, mode=mode)
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == mode
    write_captions(tmp_path, ".txt", {"a.png": "x"})
    image = load_folder(tmp_path)[0].image()
    assert (image.mode, image.getpixel((3, 2))) == ("RGB", want)


@pytest.mark.parametrize("orientation", STORED_CORNERS)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_rotated_images_come_out_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    size = (64, 32) if orientation < 5 else (32, 64)
    image = Image.new("RGB", size)
    for i, color in enumerate(STORED_CORNERS[orientation]):
        box = (i % 2 * size[0] // 2, i // 2 * size[1] // 2)
        image.paste(color, (*box, box[0] + size[0] // 2, box[1] + size[1] // 2))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a{suffix}", exif=exif)
    write_captions(tmp_path, ".txt", {f"a{suffix}": "x"})
    upright = load_folder(tmp_path)[0].image()
    assert (upright.mode, upright.size) == ("RGB", (64, 32))
    for place, color in (((8, 8), RED), ((56, 8), GREEN), ((8, 24), BLUE), ((56, 24), GREY)):
        np.testing.assert_allclose(upright.getpixel(place), color, atol=6)


def test_a_photograph_with_a_second_picture_inside_is_a_jpeg(tmp_path: Path) -> None:
    """Telephones write such files; PIL calls them MPO."""
    first, second = (Image.new("RGB", (16, 16), color) for color in (RED, BLUE))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    write_captions(tmp_path, ".txt", {"a.jpg": "x"})
    np.testing.assert_allclose(load_folder(tmp_path)[0].image().getpixel((3, 2)), RED, atol=6)


@pytest.mark.parametrize(
    "other",
    [
        (("a", ("x", "y")), ("b", ("Z",))),
        (("a", ("x", "y")), ("c", ("z",))),
        (("a", ("y", "x")), ("b", ("z",))),
        (("a", ("x y",)), ("b", ("z",))),
        (("a", ("x", "y", "")), ("b", ("z",))),
        (("ax", ("y",)), ("b", ("z",))),
        (("a", ("x", "y", "b", "z")),),
        (("b", ("z",)), ("a", ("x", "y"))),
        FIRST[:1],
        (*FIRST, ("c", ("w",))),
    ],
)
def test_the_fingerprint_changes_with_keys_and_captions(
    other: tuple[tuple[str, tuple[str, ...]], ...],
) -> None:
    assert fingerprint(named(*other)) != fingerprint(named(*FIRST))


def test_the_fingerprint_changes_with_nothing_else(tmp_path: Path) -> None:
    make_folder(tmp_path / "one", "metadata.jsonl")
    make_folder(tmp_path / "two", ".txt")
    assert fingerprint(load_folder(tmp_path / "one")) == fingerprint(
        load_folder(tmp_path / "two", image_column="other", max_train_samples=3)
    )


def test_replaced_images_change_the_fingerprint(tmp_path: Path) -> None:
    folder = write_images(tmp_path, count=2)
    before = fingerprint(load_records(DataConfig(train_data_dir=str(folder))))
    Image.new("RGB", (16, 16)).save(folder / "0.png")
    assert fingerprint(load_records(DataConfig(train_data_dir=str(folder)))) != before
