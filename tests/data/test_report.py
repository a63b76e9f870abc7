"""What a run says about its data before it learns from it."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from lcm.data.config import DataConfig
from lcm.data.dropped import Dropped, leave_out
from lcm.data.load import load_data
from lcm.data.loaded import LoadedData
from lcm.data.pictures import survey
from lcm.data.records import Record
from lcm.data.report import lines_left_out, make_report, write_report
from lcm.models.prompts import Lengths
from lcm.system.fonts import fonts
from lcm.system.processes import Team
from tests.support.grids import cells, layout_of
from tests.support.pictures import RED, encoded, plain
from tests.support.records import make_data

SIZES = [(40, 30), (16, 90), (8, 8), (64, 64), (15, 16)]


def record(name: str, image: Image.Image, *captions: str) -> Record:
    return Record(name, captions or ("x",), partial(BytesIO, encoded(image)))


def loaded(*records: Record) -> LoadedData:
    return LoadedData("--train_data_dir photos", list(records), survey(records, Team()), Counter())


def written(folder: Path, data: LoadedData) -> Path:
    folder.mkdir(exist_ok=True)
    write_report(folder, make_report(data, 16), data.records)
    return folder


def test_the_counts_are_those_of_the_folder(tmp_path: Path) -> None:
    for i, size in enumerate(SIZES):
        plain(RED, size=size).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("one\ntwo" if i < 2 else "one")
    plain(RED).save(tmp_path / "silent.png")
    (tmp_path / "broken.png").write_text("no picture")
    (tmp_path / "broken.txt").write_text("x")
    data = load_data(DataConfig(train_data_dir=str(tmp_path)))
    report = make_report(data, 16, lengths=Lengths(7, 6, 2, 77))
    assert dataclasses.asdict(report) == {
        "source": f"--train_data_dir {tmp_path}",
        "kept": 5,
        "dropped": {"unreadable": 1, "without a caption": 1},
        "without_caption": 1,
        "captions": 7,
        "resolution": 16,
        "smallest_side": 8,
        "median_side": 16,
        "largest_side": 64,
        "enlarged": 2,
        "buckets": {"16x16": 5},
        "hidden": 0,
        "left_out": [
            {"file": "broken.png", "reason": "unreadable", "why": "its content is none of these"},
            {"file": "silent.png", "reason": "without a caption", "why": ""},
        ],
        "captions_counted": 6,
        "long_captions": 2,
        # 40x30, 16x90 and 15x16 lose 10/40, 74/90 and 1/16
        "cut_away": pytest.approx((10 / 40 + 74 / 90 + 1 / 16) / 5, abs=1e-3),
    }
    captions, cut, sides = report.lines()
    assert (
        cut == "cut to 16x16 (5): 23% of what they show is lost; --aspect_ratio_buckets keeps more"
    )
    assert captions == "captions: 7 for 5 samples; dropped without one: 1"
    assert sides == (
        "shorter sides of the images: 8 to 64 pixels, median 16; 2 of 5 are enlarged to what is "
        "cut out"
    )
    write_report(tmp_path, report, data.records)
    assert json.loads((tmp_path / "data_report.json").read_text()) == dataclasses.asdict(report)


@pytest.mark.parametrize(
    ("resolution", "enlarged"), [(1, 0), (8, 0), (9, 1), (16, 2), (64, 4), (65, 5)]
)
def test_pictures_are_enlarged_where_their_shorter_side_is_below_the_resolution(
    resolution: int, enlarged: int
) -> None:
    data = loaded(*(record(f"{i}", plain(RED, size=size)) for i, size in enumerate(SIZES)))
    assert make_report(data, resolution).enlarged == enlarged


def test_a_side_is_that_of_the_picture_as_it_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain(RED, size=(64, 32)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.txt").write_text("x")
    (picture,) = load_data(DataConfig(train_data_dir=str(tmp_path))).pictures
    assert (picture.width, picture.height) == (32, 64)


def test_prompts_have_no_sides_and_no_picture(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\n\ntwo\n")
    data = load_data(DataConfig(prompts_file=str(tmp_path / "prompts.txt")))
    report = json.loads((written(tmp_path / "out", data) / "data_report.json").read_text())
    assert (report["kept"], report["dropped"], report["captions"]) == (2, {"blank lines": 1}, 2)
    assert report["smallest_side"] is report["median_side"] is report["largest_side"] is None
    assert len(make_report(data, 16).lines()) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data_report.json"]


def colors_of(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as picture:
        return {
            tuple(color) for color in np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()
        }


def color(number: int) -> tuple[int, int, int]:
    """One that nothing else on the sheet has."""
    return (number, 255 - number, 7)


@pytest.mark.parametrize("total", [1, 7, 25])
def test_the_sheet_shows_samples_of_all_the_data_once_each(tmp_path: Path, total: int) -> None:
    colors = [color(number) for number in range(total)]
    data = loaded(*(record(f"{i}", plain(each), f"no {i}") for i, each in enumerate(colors)))
    shown = colors_of(written(tmp_path, data) / "data_report.png") & set(colors)
    assert len(shown) == min(total, 24)
    assert {colors[0], colors[-1]} <= shown
    numbers = sorted(each[0] for each in shown)
    assert max(np.diff(numbers), default=1) <= max(1, -(-(total - 1) // 23))
    rows = layout_of(tmp_path / "data_report.png").rows
    assert [words.split(" (")[0] for words in rows] == [f"no {number}" for number in numbers]


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_frame_is_what_the_first_pass_cuts_out(tmp_path: Path, mirrored: bool) -> None:
    """Of stripes of as many greys those are bright that the sample has, but for the frame's own
    lines.
    """
    stripes = np.zeros((16, 96, 3), np.uint8)
    stripes[:] = np.arange(96)[None, :, None] + 120
    rows = [record("a", Image.fromarray(stripes))]
    data = loaded(*rows)
    samples, crop = next(
        (samples, crop)
        for seed in range(50)
        if (crop := (samples := make_data(rows, seed, random_flip=True)).first_crop(0, (16, 96)))
        and crop.mirrored == mirrored
        and 8 < crop.size.crop_left < 72
    )
    write_report(tmp_path, make_report(data, 16), data.records, samples.first_crop)
    seen = sorted(set(((samples[0, 0].content.tensor[0] + 1) * 127.5).round().int()[0].tolist()))
    (picture,) = cells(tmp_path / "data_report.png").values()
    bright = {value for value in picture[len(picture) // 2, :, 0].tolist() if 120 <= value < 216}
    assert bright == set(seen[1:-1])
    (words,) = layout_of(tmp_path / "data_report.png").rows
    assert words == f"x (96 x 16, cut to 16 x 16{', mirrored' if mirrored else ''})"


def test_whole_pictures_have_no_frame(tmp_path: Path) -> None:
    data = loaded(record("a", plain(RED, size=(48, 48))))
    whole = make_data(data.records).first_crop
    write_report(tmp_path, make_report(data, 16), data.records, whole)
    (picture,) = cells(tmp_path / "data_report.png").values()
    assert (picture == RED).all()


def test_what_was_left_out_stands_below_by_name_and_reason(tmp_path: Path) -> None:
    records = [record("a", plain(RED))]
    sides: list[int] = []
    for number in (0, 1, 9):
        dropped = Dropped()
        for i in range(number):
            leave_out(dropped, f"{i}.png", "unreadable")
        data = LoadedData("--train_data_dir x", records, survey(records, Team()), dropped)
        report = make_report(data, 16)
        write_report(tmp_path, report, records)
        with Image.open(tmp_path / "data_report.png") as sheet:
            sides.append(sheet.height)
        if number == 9:
            assert lines_left_out(report)[1] == (
                "9 unreadable: 0.png, 1.png, 2.png, 3.png, 4.png, 4 more"
            )
    assert sides[0] < sides[1] == sides[2]


def ink(folder: Path, *captions: str) -> int:
    """Dark pixels below the pictures, which only letters have."""
    path = (
        written(folder, loaded(record("a", plain((255, 255, 255)), *captions))) / "data_report.png"
    )
    layout = layout_of(path)
    with Image.open(path) as picture:
        below = np.asarray(picture.convert("L"))[layout.places[0][1] + layout.size[1] :]
    return int((below < 60).sum())


def test_captions_are_written_below(tmp_path: Path) -> None:
    assert 0 < ink(tmp_path, "a ball") < ink(tmp_path, "a ball", "a red and rather round ball")


def test_letters_that_no_font_has_are_spelled_out(tmp_path: Path) -> None:
    private = "\U0010fffd"
    assert ink(tmp_path, f"a {private}") == ink(tmp_path, r"a \U0010fffd") > ink(tmp_path, "a ")


def test_letters_that_a_font_of_this_machine_has_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether any has them is looked at by its table of letters, not by what it draws."""
    monkeypatch.setattr("lcm.system.fonts.fonts", lambda size: (ImageFont.load_default(size),))
    monkeypatch.setattr("lcm.system.fonts.found_for", lambda letter, size: None)
    spelled = ink(tmp_path, "кот")
    monkeypatch.undo()
    if not any("DejaVuSans" in str(getattr(font, "path", "")) for font in fonts(14)):
        pytest.skip("this machine has no such font")
    assert 0 < ink(tmp_path, "кот") < spelled == ink(tmp_path, r"\u043a\u043e\u0442")


@pytest.mark.parametrize(
    "caption",
    ["größer 貓 \U0001f408", "word " * 500, "W" * 5000, "a\tb\x00c\x1bd", "שלום", "%s {} \\n"],
    ids=ascii,
)
def test_no_caption_stops_a_run(tmp_path: Path, caption: str) -> None:
    assert ink(tmp_path, caption) > 0


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2000, 1500)])
def test_no_size_stops_a_run(tmp_path: Path, size: tuple[int, int]) -> None:
    assert RED in colors_of(
        written(tmp_path, loaded(record("a", plain(RED, size=size)))) / "data_report.png"
    )
