"""Prompts in playback: every way to play a recipe leaves out its layers of the text encoders, says
once where a prompt is too long, and refuses what is not UTF-8.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler
from PIL import Image

import lcm
from lcm.adapter.names import WEIGHTS_NAME
from lcm.cli.main import main
from lcm.pipelines import FewStepStableDiffusionPipeline, FewStepStableDiffusionXLPipeline
from tests.support.adapters import OF_EVERY_KIND, make_recipe, write_adapter
from tests.support.pipelines import stock
from tests.support.prompts import LONG, listen, of_length, skippable
from tests.support.worlds import build_sd, build_sdxl

FEW: dict[str, Any] = {
    **{"height": 16, "width": 16, "output_type": "np"},
    **{"num_inference_steps": 2, "guidance_scale": 1.0},
}
FAMILIES = {
    "sd": (build_sd, FewStepStableDiffusionPipeline, 16),
    "sdxl": (build_sdxl, FewStepStableDiffusionXLPipeline, 32),
}
Play = Callable[[Any, Path, str, dict[str, Any]], np.ndarray]
"""Plays an adapter on a stock pipeline: prompt and further arguments to a picture."""


@pytest.fixture(scope="module", params=list(FAMILIES))
def skipped(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An adapter whose teacher had one layer left out."""
    build, _, width = FAMILIES[request.param]
    recipe = make_recipe(request.param, width, clip_skip=1)
    folder = tmp_path_factory.mktemp("skipped")
    return request.param, write_adapter(folder, build, recipe, targets=OF_EVERY_KIND)


def by_attach(pipe: Any, adapter: Path, prompt: str, options: dict[str, Any]) -> np.ndarray:
    lcm.attach(pipe, adapter)
    pipe.set_progress_bar_config(disable=True)
    calls = {**FEW, **options}
    pipe(prompt, generator=torch.Generator().manual_seed(3), **calls)
    # what there is to say is not said again
    return pipe(prompt, generator=torch.Generator().manual_seed(3), **calls).images[0]


def by_few_step(pipe: Any, adapter: Path, prompt: str, options: dict[str, Any]) -> np.ndarray:
    kind = FAMILIES["sdxl" if hasattr(pipe, "text_encoder_2") else "sd"][1]
    few = stock(kind, pipe)
    few.attach(adapter)
    few(prompt, seed=3, **{**FEW, **options})
    return few(prompt, seed=3, **{**FEW, **options}).images[0]


def by_serving(pipe: Any, adapter: Path, prompt: str, options: dict[str, Any]) -> np.ndarray:
    lcm.attach(pipe, adapter)
    size = {"height": 16, "width": 16, "options": {"output_type": "np"}}
    requests = [lcm.Request(prompt, seed=3, num_inference_steps=2, **size, **options)] * 2
    results = list(lcm.serve(pipe, requests))
    for result in results:
        if result.error is not None:
            raise result.error
    return results[0].image


WAYS: dict[str, Play] = {"attach": by_attach, "few step": by_few_step, "serve": by_serving}


def expected(build: Callable[[], Any], adapter: Path, prompt: str, clip_skip: Any) -> np.ndarray:
    """What stock diffusers draws."""
    pipe = build()
    pipe.load_lora_weights(adapter, weight_name=WEIGHTS_NAME)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=50)
    pipe.set_progress_bar_config(disable=True)
    return skippable(pipe)(
        prompt,
        generator=torch.Generator().manual_seed(3),
        clip_skip=clip_skip,
        **FEW,
    ).images[0]


@pytest.fixture(scope="module")
def with_and_without(skipped: tuple[str, Path]) -> list[np.ndarray]:
    """What stock diffusers draws with a layer less, and with all of them."""
    family, adapter = skipped
    return [expected(FAMILIES[family][0], adapter, LONG, clip_skip) for clip_skip in (1, None)]


@pytest.mark.parametrize("way", WAYS)
def test_the_layers_of_the_recipe_are_left_out_and_a_long_prompt_is_said_once(
    skipped: tuple[str, Path], with_and_without: list[np.ndarray], way: str
) -> None:
    family, adapter = skipped
    build, drawn = FAMILIES[family][0], []
    (said,) = listen(lambda: drawn.append(WAYS[way](build(), adapter, LONG, {})))
    assert "a prompt is longer than 77 tokens (75 of words): of " in said
    assert said.count(" on is not seen") == 1
    right, other = with_and_without
    np.testing.assert_allclose(drawn[0], right, atol=2e-5)
    assert np.abs(drawn[0] - other).max() > 1e-3


def test_a_call_has_the_last_word(tmp_path: Path) -> None:
    skipped = write_adapter(tmp_path, build_sd, make_recipe(clip_skip=1), targets=OF_EVERY_KIND)
    right = expected(build_sd, skipped, "a red star", None)
    for play in (by_attach, by_serving):
        drawn = play(build_sd(), skipped, "a red star", {"clip_skip": 0})
        np.testing.assert_allclose(drawn, right, atol=2e-5)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("a", {"clip_skip": 9}, r"^clip_skip: .*, not 9$"),
        ("a \udcff", {}, r"^prompt is not UTF-8, 'a \\udcff'"),
        (
            "a",
            {"negative_prompt": "\udcff", "guidance_scale": 1.5},
            r"^negative_prompt is not UTF-8, '\\udcff'",
        ),
    ],
    ids=["layers", "prompt", "negative prompt"],
)
def test_what_cannot_be_is_one_sentence(
    prompt: str, options: dict[str, Any], message: str, adapter: Path
) -> None:
    pipe = build_sd()
    few = stock(FewStepStableDiffusionPipeline, pipe)
    with pytest.raises(ValueError, match=message):
        few(prompt, **FEW | options)
    lcm.attach(pipe, adapter)
    with pytest.raises(ValueError, match=message):
        pipe(prompt, **FEW | options)
    (result,) = lcm.serve(pipe, [lcm.Request(prompt, height=16, width=16, **options)])
    with pytest.raises(ValueError, match=message):
        raise result.error


def test_a_recipe_that_asks_for_more_layers_than_there_are_changes_nothing(tmp_path: Path) -> None:
    pipe = build_sd()
    scheduler = pipe.scheduler
    adapter = write_adapter(tmp_path, build_sd, make_recipe(clip_skip=9))
    with pytest.raises(ValueError, match=r": clip_skip: .*, not 9$"):
        lcm.attach(pipe, adapter)
    assert pipe.scheduler is scheduler and pipe.get_list_adapters() == {}


def test_serving_without_an_adapter_says_it_once_an_engine() -> None:
    pipe = build_sd()
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    requests = [lcm.Request(LONG, height=16, width=16, clip_skip=1)] * 3
    assert len(listen(lambda: list(lcm.serve(pipe, requests)))) == 1


# --- lcm generate ---------------------------------------------------------------------------------


def test_generate_leaves_out_layers_and_says_once_what_is_cut(
    skipped: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family, adapter = skipped
    adapted = family == "sdxl"
    base, prompts = tmp_path / "base", ["", "a red star", f"{LONG} x"]
    FAMILIES[family][0]().save_pretrained(base)
    common = ["generate", "--base", str(base), "--prompt", *prompts, "--seed", "3"]
    options = ["--adapter", str(adapter)] if adapted else ["--clip_skip", "1"]
    options += ["--steps", "2"]
    said = listen(lambda: main([*common, "--output", str(tmp_path / "a"), *options]))
    lines = of_length(capsys.readouterr().err.splitlines())
    assert said == [] and len(lines) == 1
    assert lines[0].startswith("warning: 1 of 3 prompts is longer than 77 tokens")
    (path,) = (tmp_path / "a").glob("0002-*.png")
    assert "Clip skip: 2" in Image.open(path).text["parameters"]
    if adapted:
        right = expected(FAMILIES[family][0], adapter, "a red star", 1)
        assert np.abs(np.asarray(Image.open(path)) / 255.0 - right).max() < 0.01


@pytest.mark.parametrize(
    "line",
    [
        ["--prompt", "a", "\udcff"],
        ["--prompt", "a", "--negative_prompt", "\udcff"],
        ["--prompt", "a", "--clip_skip", "9"],
        ["--prompt", "a", "--clip_skip", "-1"],
    ],
)
def test_generate_refuses_in_one_line(
    line: list[str], sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(["generate", "--base", str(sd_folder), "--output", str(output), *line]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: {line[-2].removeprefix('--') if '--' in line[-2] else 'prompt'}"
    )
    assert error.count("\n") == 1 and not output.exists()
