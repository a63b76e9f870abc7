"""`lcm generate`: every file is the picture of stock diffusers, has a name of its own and says what
it was drawn with."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from diffusers import LCMScheduler, StableDiffusionPipeline
from PIL import Image

from lcm.inference.planned import draw_seed_grid, plan
from lcm.system.image_grid import LARGEST_SIDE, fitting, save_png
from lcm.system.text import count
from tests.support.adapters import stock_load
from tests.support.drawings import PROMPTS, generate, pixels, stock, written
from tests.support.grids import cells, layout_of


@pytest.fixture(scope="module")
def drawn(sd_folder: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts, steps and seeds."""
    output = tmp_path_factory.mktemp("drawn") / "out"
    assert generate(sd_folder, output, "--adapter", adapter, "--steps", 1, 4, "--seeds", 0, 7) == 0
    return output


def test_every_picture_is_that_of_stock_diffusers(
    drawn: Path, sd_folder: Path, adapter: Path
) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(sd_folder)
    stock_load(pipe, adapter)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pictures = written(drawn)
    assert set(pictures) == {
        (row, steps, seed) for row in (1, 2) for steps in (1, 4) for seed in (0, 7)
    }
    for (row, steps, seed), path in pictures.items():
        expected = stock(pipe, PROMPTS[row - 1], steps, seed, guidance_scale=1.0)
        assert np.abs(pixels(path) - expected).max() <= 1
    assert not np.array_equal(pixels(pictures[1, 4, 0]), pixels(pictures[1, 4, 7]))


def test_files_are_named_and_say_what_they_are(drawn: Path, sd_folder: Path, adapter: Path) -> None:
    assert {path.name for path in drawn.iterdir()} == {
        *(f"0001-a-red-star-{n}-seed{seed}.png" for n in ("1-step", "4-steps") for seed in (0, 7)),
        *(f"0002-blue-{n}-seed{seed}.png" for n in ("1-step", "4-steps") for seed in (0, 7)),
        *("grid-seed0.png", "grid-seed7.png", "images.json"),
    }
    text = Image.open(drawn / "0001-a-red-star-4-steps-seed7.png").text["parameters"]
    assert text == (
        "a red star\nSteps: 4, Sampler: LCM, CFG scale: 1, Seed: 7, Size: 16x16, Model: "
        f'{sd_folder.name}, Adapters: "{adapter}=1"'
    )
    index = json.loads((drawn / "images.json").read_text())
    assert (index["scheduler"], index["guidance_scale"], index["adapters"]) == (
        "LCMScheduler",
        1.0,
        {str(adapter): 1.0},
    )
    assert index["images"][0] == {
        **{
            "file": "0001-a-red-star-1-step-seed0.png",
            "row": 1,
            "prompt": "a red star",
            "steps": 1,
            "seed": 0,
        },
        **{"width": 16, "height": 16},
    }


def test_a_picture_does_not_depend_on_those_drawn_with_it(
    drawn: Path, sd_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    assert (
        generate(
            sd_folder,
            tmp_path,
            "--adapter",
            adapter,
            "--steps",
            4,
            "--seeds",
            7,
            0,
            "--batch_size",
            3,
        )
        == 0
    )
    for key, path in written(tmp_path).items():
        assert np.abs(pixels(path) - pixels(written(drawn)[key])).max() <= 1


def test_rows_of_the_grid_are_prompts_and_columns_steps(drawn: Path) -> None:
    path = drawn / "grid-seed7.png"
    grid, layout, inside = pixels(path), layout_of(path), cells(path)
    assert (layout.rows, layout.columns) == (PROMPTS, ["1 step", "4 steps"])
    assert layout.times == 8  # of 16 pixels
    order = [(1, 1), (1, 4), (2, 1), (2, 4)]
    places = dict(zip(order, layout.places, strict=True))
    for (row, steps), (left, top) in places.items():
        picture = pixels(written(drawn)[row, steps, 7])
        shown = grid[top : top + 128, left : left + 128]
        assert np.array_equal(shown, picture.repeat(8, 0).repeat(8, 1))
        assert np.array_equal(inside[row - 1, count(steps, "step")], picture)
    (left, top), (right, _), (_, lower) = (places[key] for key in order[:3])
    assert left < right and top < lower
    for above in (top, lower):  # a prompt stands left of its row
        assert (grid[above : above + 128, :left] < 128).any()
    for start in (left, right):
        assert (grid[:top, start : start + 128] < 128).any()


def test_a_large_grid_is_made_smaller(tmp_path: Path) -> None:
    assert fitting((512, 256), rows=2, columns=4) == (512, 256)
    pictures = plan(["x"] * 70, [1], [0])
    for picture in pictures:
        save_png(Image.new("RGB", (10, 400)), tmp_path / picture.name)
    assert max(draw_seed_grid(tmp_path, pictures).size) <= LARGEST_SIDE


def test_names_stay_in_the_folder_and_are_all_different() -> None:
    prompts = [
        "../../etc/passwd",
        "",
        "x" * 500,
        "x" * 500,
        "你好",
        "Käse & Brot\n",
        "a/b\\c:d",
        "CON",
        "...",
    ]
    names = [picture.name for picture in plan(prompts, [1, 2], [0, 2**62])]
    assert len(set(names)) == len(names) == 4 * len(prompts)
    for name in names:
        assert re.fullmatch(r"\d{4}(-[a-z0-9-]+)?-(1-step|2-steps)-seed\d+\.png", name)
        assert len(name) <= 100
    assert "0006-kase-brot-1-step-seed0.png" in names
    assert len(plan(["x"], [4, 4], [1, 1, 1])) == 1


def test_nothing_is_overwritten_unasked(
    drawn: Path, sd_folder: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(drawn, tmp_path / "out")
    marked = tmp_path / "out" / "0001-a-red-star-1-step-seed0.png"
    marked.write_text("mine")
    assert generate(sd_folder, tmp_path / "out", "--adapter", adapter, "--steps", 1) == 2
    assert "would be overwritten; pass another --output, or --overwrite" in capsys.readouterr().err
    assert marked.read_text() == "mine"
    (tmp_path / "out" / "images.json").unlink()
    (tmp_path / "out" / "grid-seed0.png").unlink()
    assert generate(sd_folder, tmp_path / "out", "--adapter", adapter, "--steps", 1) == 2
    assert marked.name in capsys.readouterr().err
    assert (
        generate(sd_folder, tmp_path / "out", "--adapter", adapter, "--steps", 1, "--overwrite")
        == 0
    )
    assert np.array_equal(pixels(marked), pixels(drawn / marked.name))
    assert not list((tmp_path / "out").glob(".*"))
