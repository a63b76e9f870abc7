"""`lcm generate`: every file is the picture of stock diffusers, has a name of its own and says what
it was drawn with.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionPipeline, TCDScheduler
from PIL import Image
from safetensors.torch import load_file, save_file

import lcm
from lcm.adapter.names import WEIGHTS_NAME
from lcm.cli.generate import configure
from lcm.cli.main import main
from lcm.inference.generate import draw_seed_grid, plan
from lcm.system.image_grid import LARGEST_SIDE, fitting, save_png
from tests.support import ROOT
from tests.support.adapters import make_recipe, write_adapter
from tests.support.single_file import write_single_file
from tests.support.worlds import build_sd

PROMPTS = ["a red star", "blue"]


@pytest.fixture(scope="module")
def tcd_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    played = {
        "scheduler": "TCDScheduler",
        "scheduler_config": {},
        "eta": 0.4,
        "guidance_scale": 1.5,
        "num_inference_steps": [3],
    }
    return write_adapter(tmp_path_factory.mktemp("tcd"), build_sd, make_recipe(**played))


@pytest.fixture(scope="module")
def foreign(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same adapter, as another trainer would have written it."""
    path = tmp_path_factory.mktemp("foreign") / "style.safetensors"
    save_file(load_file(adapter / WEIGHTS_NAME), path)
    return path


def generate(base: Path, output: Path, *words: Any, prompts: list[str] = PROMPTS) -> int:
    return main(
        [
            "generate",
            "--base",
            str(base),
            "--output",
            str(output),
            "--prompt",
            *prompts,
            *map(str, words),
        ]
    )


def written(folder: Path) -> dict[tuple[int, int, int], Path]:
    """The pictures by (row, steps, seed), as the index has them."""
    entries = json.loads((folder / "images.json").read_text())["images"]
    return {
        (entry["row"], entry["steps"], entry["seed"]): folder / entry["file"] for entry in entries
    }


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def stock(pipe: Any, prompt: str, steps: int, seed: int, **options: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(seed)
    options = {"height": 16, "width": 16, **options}
    return np.asarray(
        pipe(prompt, num_inference_steps=steps, generator=generator, **options).images[0]
    ).astype(int)


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
    pipe.load_lora_weights(adapter)
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
        *(f"0001-a-red-star-{n}steps-seed{seed}.png" for n in (1, 4) for seed in (0, 7)),
        *(f"0002-blue-{n}steps-seed{seed}.png" for n in (1, 4) for seed in (0, 7)),
        *("grid-seed0.png", "grid-seed7.png", "images.json"),
    }
    text = Image.open(drawn / "0001-a-red-star-4steps-seed7.png").text["parameters"]
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
            "file": "0001-a-red-star-1steps-seed0.png",
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


def position(grid: np.ndarray, part: np.ndarray) -> tuple[int, int]:
    """Where a picture stands in a larger one, (top, left)."""
    height, width = part.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(grid, (height, width, 3))[:, :, 0]
    (found,) = np.argwhere((windows == part).all((2, 3, 4)))
    return int(found[0]), int(found[1])


def test_rows_of_the_grid_are_prompts_and_columns_steps(drawn: Path) -> None:
    grid = pixels(drawn / "grid-seed7.png")
    places = {
        key: position(grid, pixels(path)) for key, path in written(drawn).items() if key[2] == 7
    }
    tops = [places[1, 1, 7][0], places[2, 1, 7][0]]
    lefts = [places[1, 1, 7][1], places[1, 4, 7][1]]
    assert tops[0] < tops[1]
    assert lefts[0] < lefts[1]
    assert places[2, 4, 7] == (tops[1], lefts[1])
    for top in tops:  # a prompt stands left of its row
        assert (grid[top : top + 16, : lefts[0]] < 128).any()
    for left in lefts:
        assert (grid[: tops[0], left : left + 16] < 128).any()


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
        assert re.fullmatch(r"\d{4}(-[a-z0-9-]+)?-[12]steps-seed\d+\.png", name)
        assert len(name) <= 100
    assert "0006-kase-brot-1steps-seed0.png" in names
    assert len(plan(["x"], [4, 4], [1, 1, 1])) == 1


def test_the_recipe_says_how_an_adapter_is_played(
    sd_folder: Path, tcd_adapter: Path, tmp_path: Path
) -> None:
    assert (
        generate(sd_folder, tmp_path / "tcd", "--adapter", tcd_adapter, "--negative_prompt", "blue")
        == 0
    )
    pipe = build_sd()
    pipe.load_lora_weights(tcd_adapter)
    pipe.scheduler = TCDScheduler.from_config(pipe.scheduler.config)
    expected = stock(pipe, PROMPTS[0], 3, 0, guidance_scale=1.5, eta=0.4, negative_prompt="blue")
    assert np.abs(pixels(written(tmp_path / "tcd")[1, 3, 0]) - expected).max() <= 1
    text = Image.open(written(tmp_path / "tcd")[1, 3, 0]).text["parameters"]
    assert text.startswith(
        "a red star\nNegative prompt: blue\nSteps: 3, Sampler: TCD, CFG scale: 1.5"
    )


def test_without_adapters_the_base_draws_as_it_does_in_stock_diffusers(
    sd_folder: Path, tmp_path: Path
) -> None:
    single = write_single_file(build_sd(), tmp_path / "model.safetensors")
    assert (
        generate(single, tmp_path / "out", "--base_config", sd_folder, "--steps", 3, "--width", 24)
        == 0
    )
    expected = stock(build_sd(), PROMPTS[1], 3, 0, guidance_scale=7.5, width=24)
    assert np.abs(pixels(written(tmp_path / "out")[2, 3, 0]) - expected).max() <= 1


def test_weights_and_several_adapters(
    sd_folder: Path, adapter: Path, foreign: Path, tmp_path: Path
) -> None:
    """The style first: the recipe counts wherever it stands. A flag that is repeated goes on."""
    words = ["--adapter", f"{foreign}=0.25", "--adapter", f"{adapter}=0.5", "--steps", 2]
    assert generate(sd_folder, tmp_path / "two", *words, prompts=PROMPTS[:1]) == 0
    pipe = build_sd()
    lcm.attach(pipe, adapter, 0.75)  # two of the same add up
    expected = stock(pipe, PROMPTS[0], 2, 0, guidance_scale=1.0)
    assert np.abs(pixels(written(tmp_path / "two")[1, 2, 0]) - expected).max() <= 1


def test_an_adapter_without_a_recipe_needs_a_scheduler(
    sd_folder: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(sd_folder, tmp_path / "out", "--adapter", foreign) == 2
    assert re.search("carries no recipe.*--scheduler", capsys.readouterr().err)
    assert (
        generate(
            sd_folder,
            tmp_path / "out",
            "--adapter",
            foreign,
            "--scheduler",
            "LCMScheduler",
            prompts=PROMPTS[:1],
        )
        == 0
    )
    pipe = build_sd()
    pipe.load_lora_weights(foreign)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    expected = stock(pipe, PROMPTS[0], 4, 0, guidance_scale=1.0)
    assert np.abs(pixels(written(tmp_path / "out")[1, 4, 0]) - expected).max() <= 1


def test_another_scheduler_can_be_asked_for(sd_folder: Path, adapter: Path, tmp_path: Path) -> None:
    assert (
        generate(
            sd_folder,
            tmp_path,
            "--adapter",
            adapter,
            "--scheduler",
            "DDIMScheduler",
            "--steps",
            2,
            prompts=PROMPTS[:1],
        )
        == 0
    )
    pipe = build_sd()
    pipe.load_lora_weights(adapter)
    pipe.scheduler = DDIMScheduler.from_config(
        LCMScheduler.from_config(pipe.scheduler.config).config
    )
    expected = stock(pipe, PROMPTS[0], 2, 0, guidance_scale=1.0)
    assert np.abs(pixels(written(tmp_path)[1, 2, 0]) - expected).max() <= 1


def test_prompts_come_from_a_file_as_in_training(
    sd_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("\ufeffa red star\n\n  blue \n", encoding="utf-8")
    words = [
        "--base",
        sd_folder,
        "--adapter",
        adapter,
        "--prompts_file",
        tmp_path / "prompts.txt",
        "--output",
        tmp_path / "out",
    ]
    assert main(["generate", *map(str, words)]) == 0
    index = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [(entry["prompt"], entry["steps"]) for entry in index["images"]] == [
        ("a red star", 4),
        ("blue", 4),
    ]


def test_nothing_is_overwritten_unasked(
    drawn: Path, sd_folder: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(drawn, tmp_path / "out")
    marked = tmp_path / "out" / "0001-a-red-star-1steps-seed0.png"
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adapter", "BASE"], "adapter: .* is a base model, not an adapter; pass it as --base"),
        (["--adapter", "nowhere.safetensors"], "no adapter at nowhere.safetensors"),
        (["--adapter", "x=heavy"], "adapter: 'heavy' in x=heavy is no weight; write PATH=0.8"),
        (["--adapter", "x=nan"], "must be a finite number"),
        (["--adapter", "ADAPTER", "--adapter", "ADAPTER"], "adapter: .* is named twice"),
        (["--height", "13"], "height.*divisible by 8 but are 13 and 16"),
        (
            ["--adapter", "ADAPTER", "--steps", "1", "60"],
            "steps: the adapter was trained on 50 solver steps; pass 1..50, not 60",
        ),
        (["--steps", "4", "0"], "steps must be positive; got 0"),
        (["--batch_size", "0"], "batch_size must be positive; got 0"),
        (["--seeds", "-1"], "seeds must lie in"),
        (["--guidance_scale", "-2"], "guidance_scale must be a number from 0 on; got -2"),
        (
            ["--scheduler", "LCMSchedule"],
            "scheduler: there is no 'LCMSchedule' .*Did you mean 'LCMScheduler'",
        ),
        (
            ["--negative_prompt", "blue", "--guidance_scale", "1"],
            "negative_prompt has no effect at guidance_scale 1",
        ),
        (["--device", "tpu"], "device: this machine has no tpu"),
        (["--base_config", "BASE"], "base_config: .*configuration of its own"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(
    sd_folder: Path,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    words = [{"BASE": str(sd_folder), "ADAPTER": str(adapter)}.get(word, word) for word in words]
    assert generate(sd_folder, tmp_path / "out", *words) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)
    assert not (tmp_path / "out").exists()


def test_the_base_is_named_by_its_flag(
    sd_v_folder: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(tmp_path / "nowhere", tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith("error: base: ")
    assert generate(sd_v_folder, tmp_path / "out", "--adapter", adapter) == 2
    assert "use a base model of the adapter's prediction type" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def commands() -> list[list[str]]:
    """The commands of the page on generating, without the program."""
    text = (ROOT / "docs" / "generating.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [
        shlex.split(line)[1:]
        for line in "".join(blocks).replace("\\\n", " ").splitlines()
        if line.startswith("lcm ")
    ]


def test_the_first_command_of_the_page_runs_and_all_parse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parser = argparse.ArgumentParser()
    configure(parser)
    for words in commands():
        assert words[0] == "generate"
        parser.parse_args(words[1:])
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    assert main(commands()[0]) == 0
    assert Image.open(
        tmp_path / "out" / "pictures" / "0001-a-red-star-on-a-navy-background-4steps-seed0.png"
    ).size == (64, 64)


def test_every_flag_of_the_command_is_on_the_page() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    configure(parser)
    text = (ROOT / "docs" / "generating.md").read_text()
    assert {flag for action in parser._actions for flag in action.option_strings} == set(
        re.findall(r"--[a-z_]+", text)
    )
