"""The flags of `lcm generate`: adapters, schedulers, prompts and mistakes."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler
from PIL import Image
from safetensors.torch import load_file, save_file

import lcm
from lcm.adapter.names import WEIGHTS_NAME
from lcm.cli.generate import configure
from lcm.cli.main import main
from tests.support import ROOT
from tests.support.adapters import make_recipe, stock_load, write_adapter
from tests.support.drawings import PROMPTS, generate, pixels, stock, written
from tests.support.single_file import write_single_file
from tests.support.worlds import build_sd


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


def test_the_recipe_says_how_an_adapter_is_played(
    sd_folder: Path, tcd_adapter: Path, tmp_path: Path
) -> None:
    assert (
        generate(sd_folder, tmp_path / "tcd", "--adapter", tcd_adapter, "--negative_prompt", "blue")
        == 0
    )
    pipe = build_sd()
    stock_load(pipe, tcd_adapter)
    pipe.scheduler = TCDScheduler.from_config(pipe.scheduler.config)
    expected = stock(pipe, PROMPTS[0], 3, 0, guidance_scale=1.5, eta=0.4, negative_prompt="blue")
    assert np.abs(pixels(written(tmp_path / "tcd")[1, 3, 0]) - expected).max() <= 1
    text = Image.open(written(tmp_path / "tcd")[1, 3, 0]).text["parameters"]
    assert text.startswith(
        "a red star\nNegative prompt: blue\nSteps: 3, Sampler: TCD, CFG scale: 1.5"
    )


@pytest.mark.parametrize(("played", "times"), [("lcm", [699]), ("lcm", [699, 359]), ("tcd", [799])])
def test_the_first_step_begins_where_it_is_told_to(
    sd_folder: Path,
    adapter: Path,
    tcd_adapter: Path,
    tmp_path: Path,
    played: str,
    times: list[int],
) -> None:
    """As the stock pipeline draws with these timesteps."""
    folder = {"lcm": adapter, "tcd": tcd_adapter}[played]
    words = ["--adapter", folder, "--steps", len(times), "--first_timestep", times[0]]
    assert generate(sd_folder, tmp_path / "out", *words) == 0
    pipe = build_sd()
    recipe = lcm.attach(pipe, folder)
    options = {"guidance_scale": recipe.guidance_scale, "eta": recipe.eta, "timesteps": times}
    expected = stock(pipe, PROMPTS[0], None, 0, **options)
    path = written(tmp_path / "out")[1, len(times), 0]
    assert np.abs(pixels(path) - expected).max() <= 1
    usual = stock(pipe, PROMPTS[0], len(times), 0, **{**options, "timesteps": None})
    assert np.abs(usual - expected).max() > 1
    assert f"First timestep: {times[0]}" in Image.open(path).text["parameters"]
    assert json.loads((tmp_path / "out" / "images.json").read_text())["first_timestep"] == times[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--steps", "1", "4", "--first_timestep", "59"], "first_timestep=59.* pass 1..3"),
        (["--first_timestep", "0"], "first_timestep.*0"),
        (["--first_timestep", "1000"], "first_timestep.*1000"),
        (["--scheduler", "DDIMScheduler", "--first_timestep", "699"], "DDIMScheduler begins at"),
    ],
)
def test_a_first_step_that_cannot_begin_there_is_refused(
    sd_folder: Path,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    says: str,
) -> None:
    assert generate(sd_folder, tmp_path / "out", "--adapter", adapter, *words) == 2
    assert re.search(says, capsys.readouterr().err)
    assert not list(tmp_path.glob("out/*.png"))


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
    stock_load(pipe, foreign)
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
    stock_load(pipe, adapter)
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
        (["--steps", "4", "0"], "steps must lie in 1..1000; got 0"),
        (["--batch_size", "0"], "batch_size must lie in 1..1000; got 0"),
        (["--seeds", "-1"], "seeds must lie in"),
        (["--guidance_scale", "-2"], "guidance_scale must lie in 0..1000; got -2"),
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
        tmp_path / "out" / "pictures" / "0001-a-red-star-on-a-navy-background-4-steps-seed0.png"
    ).size == (64, 64)


def test_every_flag_of_the_command_is_on_the_page() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    configure(parser)
    text = (ROOT / "docs" / "generating.md").read_text()
    assert {flag for action in parser._actions for flag in action.option_strings} == set(
        re.findall(r"--[a-z_]+", text)
    )
