"""report.html: whole, valid and harmless, whatever the run was, and its curves are those of
metrics.jsonl.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcm.adapter.recipe import Recipe, TeacherFacts
from lcm.config.command_line import parse_config
from lcm.config.run import TrainConfig
from lcm.data.config import SOURCE_FLAGS
from lcm.methods import METHODS
from lcm.methods.build import make_recipe
from lcm.outputs.folder import REPORT_NAME
from lcm.publish.report import write_page
from lcm.publish.report.curves import (
    HEIGHT,
    LEFT,
    WIDTH,
    Series,
    chart,
    log_ticks,
    nice_ticks,
    smooth,
    thin,
)
from lcm.publish.report.pictures import choose, data_uri
from lcm.training.publisher import Publisher
from tests.support.runs import flags, run, trainer_for

VOID = {"meta", "img", "br", "hr", "link", "input", "col"}


class Page(HTMLParser):
    """Checks that every element is closed in the order it was opened; collects attributes and
    text.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> closes itself in SVG alone"
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def read(folder: Path) -> Page:
    text = (folder / REPORT_NAME).read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "prefers-color-scheme: dark" in text
    page = Page(text)
    for tag, attributes in page.found:
        assert tag not in ("script", "link", "iframe", "object", "base", "form"), tag
        assert not any(name.startswith("on") for name in attributes), attributes
        if "src" in attributes:
            assert str(attributes["src"]).startswith("data:image/"), attributes["src"]
        if "href" in attributes:
            assert re.fullmatch(r"(validation|images)/[\w.-]+", str(attributes["href"]))
    assert not re.search(r"url\(|@import", text)
    return page


CONFIG = {
    "pretrained_teacher_model": "someone/teacher",
    "train_data_dir": "photos",
    "resolution": 16,
}
HOSTILE = "</li><script>alert('1')</script> & \"quoted\" <img src=x onerror=alert(2)>"


def recipe_of(config: TrainConfig) -> Recipe:
    facts = TeacherFacts("sd", 16, "epsilon", False, config.teacher.path, 16)
    return make_recipe(config.method, facts)


def write(
    folder: Path, lines: list[dict[str, Any]] | str = "", finished: bool = False, **changes: Any
) -> Page:
    """The page of a folder with these lines and whatever else it holds."""
    text = lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    config = TrainConfig.of(**{**CONFIG, **changes})
    prompts = [HOSTILE, "blue"]
    recipe, settings = recipe_of(config), config.flat()
    write_page(folder, config, settings, recipe, prompts, processes=2, finished=finished)
    return read(folder)


def line(step: int, **values: Any) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step / 10,
        "loss": 0.5,
        "lr": 1e-4,
        "seconds_per_step": 0.5,
        **values,
    }


def write_picture(path: Path, size: tuple[int, int], noise: bool = False) -> None:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    (Image.fromarray(pixels) if noise else Image.new("RGB", size, "teal")).save(path)


# --- a real run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(sd_folder: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("seen") / "out"
    brief = {"validation_prompts": [HOSTILE, "blue"], "validation_num_steps": [1, 2]}
    assert run(sd_folder, images, output, **brief) == 0
    return output


def test_the_page_of_a_finished_run_has_it_all(done: Path) -> None:
    page = read(done)
    lines = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    assert f"Finished: {len(lines)} updates." in page.words
    large, first, second, examples = page.all("img")
    assert (
        base64.b64decode(str(large["src"]).split(",")[1])
        == (done / "images" / "grid.png").read_bytes()
    )
    for picture, step in ((first, 0), (second, 2)):
        assert (
            base64.b64decode(str(picture["src"]).split(",")[1])
            == (done / "validation" / f"step-{step:06d}.png").read_bytes()
        )
    assert "the first, the middle" in str(examples["alt"]).lower()
    titles = [str(svg["aria-label"]) for svg in page.all("svg")]
    assert [title.split()[0] for title in titles] == [
        "loss",
        "loss",
        "gradient",
        "distance",
        "learning",
        "images",
    ]
    assert f"loss: {lines[-1]['loss']:.4g}" in page.words
    card = (done / "README.md").read_text()
    assert card.split("```python\n")[1].split("```")[0].strip() in "".join(page.text)
    for words in (
        "kept 6",
        "captions 6",
        "trained_guidance_scale 7.5, 7.5",
        "processes 1",
        "lora_rank 2",
        "mixed_precision no",
    ):
        assert words in page.words, words
    assert (done / REPORT_NAME).stat().st_size < 200_000


def test_prompts_are_text_and_nothing_else(done: Path) -> None:
    page = read(done)
    assert [attributes for attributes in page.all("img") if "onerror" in attributes] == []
    assert HOSTILE in "".join(page.text)


# --- whatever is there ----------------------------------------------------------------------------


def test_a_folder_without_anything_has_a_page(tmp_path: Path) -> None:
    page = write(tmp_path)
    assert "Under way: 0 of 1000 updates" in page.words
    assert page.all("svg") == page.all("img") == []


def test_one_line_is_one_dot_a_curve(tmp_path: Path) -> None:
    page = write(tmp_path, [line(3, grad_norm=None, loss_t_000_249=None, loss_t_250_499=0.25)])
    assert [str(svg["aria-label"]) for svg in page.all("svg")] == [
        "loss",
        "loss by timestep",
        "learning rate",
    ]
    assert len(page.all("circle")) == 3
    assert "t 250 to 499: 0.25" in page.words
    assert page.all("polyline") == []


def test_nulls_torn_lines_and_lines_of_an_older_version_are_left_out(tmp_path: Path) -> None:
    whole = [line(1), line(2, loss=None, grad_norm=2.0), line(3, loss=0.25, grad_norm=4.0)]
    page = write(tmp_path, "".join(json.dumps(row) + "\n" for row in whole) + '{"step": 4, "lo')
    assert "Under way: 3 of 1000" in page.words
    loss, grad_norm, lr = page.all("polyline")
    assert [len(str(curve["points"]).split()) for curve in (loss, grad_norm, lr)] == [2, 2, 3]


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
    assert "source prompts.txt kept 7 dropped - smallest side -" in page.words
    assert page.all("img") == []


def test_why_samples_were_dropped_is_told(tmp_path: Path) -> None:
    (tmp_path / "data_report.json").write_text(
        json.dumps({"kept": 7, "dropped": {"unreadable <b>": 3, "without a caption": 2}})
    )
    assert "unreadable <b>=3, without a caption=2" in write(tmp_path).words


def test_large_grids_are_made_small_and_many_are_thinned(tmp_path: Path) -> None:
    write_picture(tmp_path / "noise.png", (400, 450), noise=True)
    (tmp_path / "validation").mkdir()
    for step in range(0, 3000, 100):
        (tmp_path / "validation" / f"step-{step:06d}.png").hardlink_to(tmp_path / "noise.png")
    write_picture(tmp_path / "validation" / "mine.png", (8, 8))
    page = write(tmp_path)
    sizes = []
    for attributes in page.all("img"):
        with Image.open(
            io.BytesIO(base64.b64decode(str(attributes["src"]).split(",")[1]))
        ) as picture:
            sizes.append(picture.size)
    assert sizes == [(400, 450), *[(320, 360)] * 23]
    captions = [str(attributes["alt"]) for attributes in page.all("img")]
    assert captions[:2] == ["step 2900", "step 0"]
    assert "6 more lie in validation/" in page.words
    assert (tmp_path / REPORT_NAME).stat().st_size < 4e6


def test_a_picture_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_picture(path, (8, 8))
    before = data_uri(path, 320)
    write_picture(path, (8, 8), noise=True)
    assert data_uri(path, 320) != before


@pytest.mark.parametrize(
    ("count", "chosen"), [(0, []), (1, [0]), (3, [0, 1, 2]), (9, [0, 4, 8]), (100, [0, 50, 99])]
)
def test_the_first_and_the_last_grid_are_among_the_chosen(count: int, chosen: list[int]) -> None:
    assert choose(count, 3) == pytest.approx(chosen, abs=0.5)


# --- settings -------------------------------------------------------------------------------------


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


# --- when it fails --------------------------------------------------------------------------------


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


# --- curves ---------------------------------------------------------------------------------------


def drawn(
    series: list[Series],
) -> tuple[list[list[tuple[float, float]]], dict[float, float], dict[float, float]]:
    """Places of the polylines, and where the ticks of x and y stand."""
    svg = str(chart("a <title>", series))
    Page(svg)
    lines = [
        [tuple(map(float, p.split(","))) for p in points.split()]
        for points in re.findall(r'points="([^"]*)"', svg)
    ]
    ticks = re.findall(r'<text x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)">([^<]*)', svg)
    below = {float(v): float(x) for x, _, anchor, v in ticks if anchor == "middle"}
    beside = {float(v): float(y) - 4 for _, y, anchor, v in ticks if anchor == "end"}
    return lines, below, beside  # type: ignore[return-value]


def along(places: dict[float, float], place: float, is_log: bool = False) -> float:
    """The value at a place, by the line through the outermost two ticks."""
    (a, first), *_, (b, last) = sorted(places.items())
    a, b = (np.log10(v) if is_log else v for v in (a, b))
    value = a + (place - first) / (last - first) * (b - a)
    return float(10**value if is_log else value)


def test_a_curve_stands_where_its_ticks_say() -> None:
    points = [(10, 0.3), (20, 0.1), (25, 0.45), (60, 0.2)]
    (places,), below, beside = drawn([Series("loss", points)])
    assert [along(below, x) for x, _ in places] == pytest.approx([x for x, _ in points], abs=0.1)
    assert [along(beside, y) for _, y in places] == pytest.approx([y for _, y in points], abs=2e-4)
    assert all(LEFT <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)


def test_values_of_many_magnitudes_have_a_logarithmic_axis() -> None:
    points = [(0, 3e-4), (1, 0.2), (2, 5.0)]
    (places,), _, beside = drawn([Series("loss", points)])
    assert sorted(beside) == pytest.approx([1e-3, 1e-2, 0.1, 1.0])
    assert [along(beside, y, is_log=True) for _, y in places] == pytest.approx(
        [y for _, y in points], rel=1e-2
    )


@pytest.mark.parametrize("value", [0.0, 1e-4, -3.0, 250.0])
def test_a_flat_curve_lies_in_the_middle(value: float) -> None:
    (places,), _, _ = drawn([Series("lr", [(1, value), (2, value)])])
    assert len({y for _, y in places}) == 1
    assert 0.25 * HEIGHT < places[0][1] < 0.75 * HEIGHT


def test_a_faint_series_has_the_colour_of_the_next_and_the_others_their_own() -> None:
    points = [(1, 1.0), (2, 2.0)]
    svg = str(
        chart(
            "x",
            [
                Series("raw", points, True),
                Series("mean", points),
                Series("none", []),
                Series("other", points),
            ],
        )
    )
    colours, opacities = (
        re.findall(r'stroke="(#\w+)"', svg),
        re.findall(r'polyline .*? opacity="([^"]*)"', svg),
    )
    assert colours[0] == colours[1] != colours[2]
    assert float(opacities[0]) < float(opacities[1]) == float(opacities[2]) == 1


def test_long_runs_are_thinned_to_means() -> None:
    points = [(i, float(i % 4)) for i in range(4000)]
    thinned = thin(points)
    assert len(thinned) == 500
    assert thinned[0] == (7, 1.5) and thinned[-1] == (3999, 1.5)
    assert thin(points[:500]) == points[:500]


def test_smoothing_takes_the_neighbours_that_there_are() -> None:
    assert smooth([(1, 0.0), (2, 3.0), (5, 6.0)], 1) == [(1, 1.5), (2, 3.0), (5, 4.5)]
    assert smooth([(1, 0.0), (2, 3.0)], 0) == [(1, 0.0), (2, 3.0)]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.1, 0.47, [0.1, 0.2, 0.3, 0.4]),
        (-3, 9, [0, 5]),
        (0, 3000, [0, 1000, 2000, 3000]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_a_short_logarithmic_axis_has_ticks_between_the_powers() -> None:
    assert log_ticks(0.15, 8.0) == pytest.approx([0.2, 0.5, 1.0, 2.0, 5.0])
    assert log_ticks(1e-5, 20.0) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0])
