"""report.html: whole, valid and harmless, whatever the run was, and its curves are those of
metrics.jsonl."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from lcm.config.command_line import parse_config
from lcm.config.run import TrainConfig
from lcm.data.config import SOURCE_FLAGS
from lcm.methods import METHODS
from lcm.outputs.folder import REPORT_NAME, grid_name
from lcm.outputs.gauges import GAUGES
from lcm.publish.report.pictures import choose, read_grid
from lcm.system.image_grid import draw_labelled, save_png
from lcm.training.publisher import Publisher
from tests.support.grids import cells, layout_of
from tests.support.outputs import lines_of_grids, lines_of_updates
from tests.support.pages import HOSTILE, line, read, write
from tests.support.runs import flags, run, trainer_for


def write_picture(path: Path, size: tuple[int, int], noise: bool = False) -> None:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    (Image.fromarray(pixels) if noise else Image.new("RGB", size, "teal")).save(path)


@pytest.fixture(scope="module")
def done(sd_folder: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("seen") / "out"
    brief = {"validation_prompts": [HOSTILE, "blue"], "validation_num_steps": [1, 2]}
    assert run(sd_folder, images, output, **brief) == 0
    return output


def decoded(attributes: dict[str, str | None]) -> Image.Image:
    data = base64.b64decode(str(attributes["src"]).split(",")[1])
    return Image.open(io.BytesIO(data)).convert("RGB")


def test_the_page_of_a_finished_run_has_it_all(done: Path) -> None:
    page = read(done)
    lines = lines_of_updates(done)
    assert f"Finished: {len(lines)} updates." in page.words
    assert page.titles[:5] == ["diversity", "contrast", "colour", "distance", "loss"]
    assert page.titles[5:] == ["loss", "gradient", "distance", "learning", "images"]
    assert f"loss: {lines[-1]['loss']:.4g}" in page.words
    assert "A consistency loss is no measure of quality" in page.words
    card = (done / "README.md").read_text()
    assert card.split("```python\n")[1].split("```")[0].strip() in "".join(page.text)
    for words in (
        "samples 6",
        "captions 6",
        "trained_guidance_scale 5.0, 5.0",
        "processes 1",
        "lora_rank 2",
        "mixed_precision no",
    ):
        assert words in page.words, words
    assert (done / REPORT_NAME).stat().st_size < 200_000


def test_every_picture_of_every_grid_is_on_the_page_with_its_labels(done: Path) -> None:
    """In the size that it was drawn in, without losses: these are small."""
    page = read(done)
    shown = {str(one["alt"]): np.asarray(decoded(one)) for one in page.all("img")}
    last = cells(done / "images" / "grid.png")
    for (row, column), picture in last.items():
        assert np.array_equal(shown[f"{[HOSTILE, 'blue'][row]}, {column}"], picture)
    for step in (0, 2, 4):
        for (row, column), picture in cells(done / grid_name(step)).items():
            if column != "teacher, 2 steps":
                alt = f"{[HOSTILE, 'blue'][row]}, {column}, step {step}"
                assert np.array_equal(shown[alt], picture), alt
    for words in (HOSTILE, "blue", "teacher, 2 steps", "1 step", "2 steps", "step 0", "step 2"):
        assert words in "".join(page.text), words


def test_the_teachers_row_is_on_top_of_a_prompt_over_the_training(done: Path) -> None:
    page = read(done)
    over_time = page.words.split("Over the training")[1].split("Student and teacher")[0]
    places = [over_time.index(f" {label}") for label in ("teacher, 2", "1 step", "2 steps")]
    assert places[0] < places[1]
    assert [str(row.get("class")) for row in page.all("tr")].count("teacher") == 2  # of two prompts


def test_the_teachers_numbers_stand_beside_the_students(done: Path) -> None:
    page, last = read(done), lines_of_grids(done)[-1]
    assert "the teacher drew in 2 steps with guidance_scale 5" in page.words
    shown = [f"{last[f'{name}_2_steps']:.2f}" for name in GAUGES]
    assert f"2 steps {' '.join(shown)} {last['latent_mean_2_steps'][0]:.2f}" in page.words
    assert f"teacher 1 1 0 0 {last['latent_mean_teacher'][0]:.2f}" in page.words
    dashed = [line for line in page.all("polyline") if "stroke-dasharray" in line]
    assert len(dashed) == len(GAUGES)  # where the teacher is
    card = (done / "README.md").read_text()
    assert f"| 2 | {' | '.join(shown)} |" in card
    assert "Columns, by inference steps: the teacher's 2, then 1, 2," in card
    assert re.search(r"\| took \| [\d.]+ (s|min|h) on a CPU|\| took \| .* on `", card)


def test_numbers_that_are_missing_or_of_another_version_are_left_out(tmp_path: Path) -> None:
    lines = [
        {"step": 2, "latent_mean_teacher": [0.5], "latent_mean_4_steps": [None]},
        {"step": 4, "latent_mean_teacher": None, "latent_mean_4_steps": 7, "contrast_4_steps": None}
        | {"diversity_4_steps": "much", "new_4_steps": 1.0},
    ]
    page = write(tmp_path, [line(1), line(2), *lines])
    assert "teacher 1 1 - -" in page.words
    assert "4 steps - - - -" in page.words


def test_prompts_are_text_and_nothing_else(done: Path) -> None:
    page = read(done)
    assert [attributes for attributes in page.all("img") if "onerror" in attributes] == []
    assert HOSTILE in "".join(page.text)


def test_a_folder_without_anything_has_a_page(tmp_path: Path) -> None:
    page = write(tmp_path)
    assert "Under way: 0 of 1000 updates" in page.words
    assert page.all("svg") == page.all("img") == []


def test_nulls_torn_lines_and_lines_of_an_older_version_are_left_out(tmp_path: Path) -> None:
    whole = [line(1), line(2, loss=None, grad_norm=2.0), line(3, loss=0.25, grad_norm=4.0)]
    page = write(tmp_path, "".join(json.dumps(row) + "\n" for row in whole) + '{"step": 4, "lo')
    assert "Under way: 3 of 1000" in page.words
    loss, grad_norm, lr = page.all("polyline")
    assert [len(str(curve["points"]).split()) for curve in (loss, grad_norm, lr)] == [2, 2, 3]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_no_point_of_a_curve(value: float, tmp_path: Path) -> None:
    rows = [line(1), line(2, loss=value, lr=value), line(3, loss=value)]
    page = write(tmp_path, [*rows, {"step": 3, "latent_mean_teacher": [value]}])
    assert [attributes["aria-label"] for attributes in page.all("svg")] == ["loss", "learning rate"]
    assert len(page.all("circle")) == len(page.all("polyline")) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"left_out": null, "hidden": 2}'])
def test_a_report_on_data_that_says_little_costs_no_page(text: str, tmp_path: Path) -> None:
    (tmp_path / "data_report.json").write_text(text)
    assert "Data" in write(tmp_path).words


def test_two_prompts_that_are_called_the_same_keep_their_own_pictures(tmp_path: Path) -> None:
    """As two do that differ behind the letters which are kept."""
    colours = ("red", "blue", "teal")
    for step, names in ((0, colours[:2]), (1, colours[1:])):
        images = [Image.new("RGB", (8, 8), name) for name in names]
        grid = draw_labelled(images, (128, 128), ["same", "same"], ["1 step"])
        save_png(grid, tmp_path / grid_name(step))
    over_time = write(tmp_path).all("img")[2:]
    shown = [decoded(one).getpixel((0, 0)) for one in over_time]
    assert shown == [ImageColor.getrgb(name) for name in ("red", "blue", "blue", "teal")]


def test_prompts_have_neither_pictures_of_samples_nor_sizes(tmp_path: Path) -> None:
    (tmp_path / "data_report.json").write_text(
        json.dumps({"source": "prompts.txt", "kept": 7, "dropped": {}, "smallest_side": None})
    )
    page = write(
        tmp_path,
        [line(1), line(2)],
        train_data_dir=None,
        prompts_file="prompts.txt",
        objective="endpoint",
    )
    assert "samples 7 read from prompts.txt Recipe" in page.words
    assert page.all("img") == []


def test_why_samples_were_dropped_is_told(tmp_path: Path) -> None:
    named = [{"file": f"<i>{i}.png", "reason": "unreadable <b>", "why": "x"} for i in range(3)]
    report = {"kept": 7, "dropped": {"unreadable <b>": 3, "without a caption": 2}}
    (tmp_path / "data_report.json").write_text(
        json.dumps({**report, "left_out": named, "hidden": 1})
    )
    words = write(tmp_path).words
    assert "left out 3 unreadable <b>, 2 without a caption" in words
    assert "Left out: 6 <i>0.png unreadable <b>: x" in words
    assert "3 more; data_report.json has all" in words


def test_samples_are_on_the_page_with_their_captions(done: Path, images: Path) -> None:
    """Those of the contact sheet, each with what was written below it."""
    page = read(done)
    layout = layout_of(done / "data_report.png")
    alts = [str(one["alt"]) for one in page.all("img")]
    assert alts[-len(layout.rows) :] == layout.rows
    assert len(layout.rows) == 6


def test_a_grid_of_an_earlier_version_is_shown_as_it_is(tmp_path: Path) -> None:
    for step in (0, 1):
        write_picture(tmp_path / "validation" / f"step-{step:06d}.png", (20, 30))
    page = write(tmp_path)
    assert [decoded(one).size for one in page.all("img")] == [(20, 30), (20, 30)]
    assert HOSTILE in "".join(page.text)


def test_large_pictures_are_made_small_and_many_grids_are_thinned(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    grid = draw_labelled([Image.fromarray(pixels)] * 2, (400, 400), ["a"], ["1 step", "2 steps"])
    save_png(grid, tmp_path / "noise.png")
    (tmp_path / "validation").mkdir()
    for step in range(0, 3000, 100):
        (tmp_path / grid_name(step)).hardlink_to(tmp_path / "noise.png")
    write_picture(tmp_path / "validation" / "mine.png", (8, 8))
    page = write(tmp_path)
    sizes = [decoded(attributes).size for attributes in page.all("img")]
    assert sizes == [(320, 320)] * 2 + [(128, 128)] * 48
    captions = [str(attributes["alt"]) for attributes in page.all("img")]
    assert captions[2] == "a, 1 step, step 0"
    assert "6 more lie in validation/" in page.words
    assert (tmp_path / REPORT_NAME).stat().st_size < 4e6


def test_a_picture_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_picture(path, (8, 8))
    before = read_grid(path, 320)
    write_picture(path, (8, 8), noise=True)
    assert read_grid(path, 320) != before


@pytest.mark.parametrize(
    ("count", "chosen"), [(0, []), (1, [0]), (3, [0, 1, 2]), (9, [0, 4, 8]), (100, [0, 50, 99])]
)
def test_the_first_and_the_last_grid_are_among_the_chosen(count: int, chosen: list[int]) -> None:
    assert choose(count, 3) == pytest.approx(chosen, abs=0.5)


@pytest.mark.parametrize("objective", METHODS)
def test_what_differs_is_what_was_said(objective: str) -> None:
    source = (
        {"prompts_file": "prompts.txt"}
        if METHODS[objective].has_teacher
        else {"train_data_dir": "photos"}
    )
    said = {
        "pretrained_teacher_model": "someone/teacher",
        **source,
        "objective": objective,
        "lora_rank": 3,
        "seed": 7,
    }
    expected = {
        name: value for name, value in said.items() if (name, value) != ("objective", "lcm")
    }
    assert TrainConfig.of(**said).changes() == expected
    assert set(source) <= set(SOURCE_FLAGS)


def test_a_page_that_cannot_be_written_costs_no_run(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_args: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lcm.training.publisher.write_page", broken)
    brief = {"validation_prompts": ["a"], "validation_num_steps": [1], "max_train_steps": 1}
    with caplog.at_level(logging.WARNING):
        publisher = publisher_of(parse_config(flags(sd_folder, images, tmp_path, **brief)))
        publisher.report()
    assert (
        "report.html could not be written ([Errno 28] No space left on device); the run goes on"
        in caplog.text
    )


def publisher_of(config: TrainConfig) -> Publisher:
    return trainer_for(config).run.publisher
