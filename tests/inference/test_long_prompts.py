"""Prompts in chunks, from training to playback: every way draws what stock diffusers draws of the
embeddings that compel makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
from lcm.pipelines import FewStepStableDiffusionPipeline
from tests.support.documents import blocks
from tests.support.pipelines import stock
from tests.support.prompts import LONG, listen, of_length
from tests.support.runs import encoded, flags, run, trainer_of
from tests.support.worlds import build_sd, write_images

compel = pytest.importorskip("compel")

SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures, one with a caption of three chunks."""
    images = write_images(tmp_path_factory.mktemp("data") / "images")
    rows = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    rows[2]["text"] = LONG[:-25]
    (images / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return images


@pytest.fixture(scope="module")
def trained(sd_folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "out"
    changes: dict[str, Any] = {"max_train_steps": 1, "validation_num_steps": 1}
    assert run(sd_folder, data, output, long_prompts="chunks", **changes) == 0
    return output


def chunks_of(text: str) -> int:
    return int(compel.CompelForSD(build_sd())(text).embeds.shape[1]) // 77


def expected(adapter: Path, prompt: str) -> np.ndarray:
    """What stock diffusers draws of compel's embeddings."""
    pipe = build_sd()
    texts = compel.CompelForSD(pipe)([prompt, LONG[:-25]])  # padded to the longest
    pipe.load_lora_weights(adapter, weight_name=WEIGHTS_NAME)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=50)
    pipe.set_progress_bar_config(disable=True)
    image = pipe(
        prompt_embeds=texts.embeds[:1],
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(3),
        **SIZE,
    ).images[0]
    return np.asarray(image).astype(int)


def test_a_run_learns_all_of_its_captions(
    trained: Path, sd_folder: Path, data: Path, tmp_path: Path
) -> None:
    recipe = lcm.read_recipe(trained)
    assert recipe is not None and recipe.prompt_chunks == chunks_of(LONG[:-25]) > 1
    report = json.loads((trained / "data_report.json").read_text())
    assert report["long_captions"] == 0
    cache = {"cache_latents": True, "latent_cache_dir": tmp_path / "cache"}
    conds = []
    for changes in ({}, cache):
        trainer = trainer_of(
            flags(
                *(sd_folder, data, tmp_path / "out"),
                **{"long_prompts": "chunks", "train_batch_size": 6, "center_crop": True, **changes},
            )
        )
        batch = next(trainer.run.inputs.batches(range(1)))
        conds.append(encoded(trainer, batch))
        theirs = compel.CompelForSD(build_sd())(batch.prompts)
        torch.testing.assert_close(conds[-1].cond.prompt_embeds, theirs.embeds)
    nothing = compel.CompelForSD(build_sd())(["", LONG[:-25]]).embeds[:1]
    torch.testing.assert_close(conds[0].uncond.prompt_embeds[:1], nothing)


def test_playback_follows_the_recipe(
    trained: Path,
    sd_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompt = "a red star"  # of one chunk, where training had more
    right = expected(trained / WEIGHTS_NAME, prompt)
    texts = [prompt, LONG[:-25]]
    common = ["generate", "--base", str(sd_folder), "--adapter", str(trained), "--prompt", *texts]
    line = [*common, "--steps", "1", "--seed", "3", "--output", str(tmp_path)]
    assert main(line) == 0
    (path,) = tmp_path.glob("0001-*.png")
    assert np.abs(np.asarray(Image.open(path)).astype(int) - right).max() <= 1
    assert of_length(capsys.readouterr().err.splitlines()) == []
    drawn: list[Any] = []
    assert listen(lambda: drawn.extend(draw_attached(trained, prompt))) == []
    assert len(drawn) == 3
    for image in drawn:
        assert np.abs(np.asarray(image).astype(int) - right).max() <= 1


def draw_attached(adapter: Path, prompt: str) -> Iterator[Any]:
    """A picture of a stock pipeline, of one of this package, and of an engine."""
    for few in (build_sd(), stock(FewStepStableDiffusionPipeline, build_sd())):
        lcm.attach(few, adapter)
        few.set_progress_bar_config(disable=True)
        yield few(prompt, generator=torch.Generator().manual_seed(3), **SIZE).images[0]
    (result,) = lcm.serve(few, [lcm.Request(prompt, seed=3, **SIZE)])
    yield result.image


def test_generate_can_be_told_otherwise_and_says_what_even_chunks_leave_out(
    adapter: Path,
    trained: Path,
    sd_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["generate", "--base", str(sd_folder), "--steps", "1", "--prompt", LONG * 3]
    index = []
    for number, (which, how) in enumerate(((trained, "truncate"), (adapter, "chunks"))):
        output = tmp_path / str(number)
        words = ["--adapter", str(which), "--long_prompts", how, "--output", str(output)]
        assert main([*common, *words]) == 0
        index.append(json.loads((output / "images.json").read_text())["prompt_chunks"])
    first, second = of_length(capsys.readouterr().err.splitlines())
    assert "longer than 77 tokens" in first and "longer than 302 tokens" in second
    assert index == [1, 4]


def test_the_snippet_of_the_page_draws_with_a_stock_pipeline(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snippet,) = [b.text for b in blocks("docs/attaching.md") if "prompt_arguments" in b.text]
    pipe = build_sd()
    recipe = lcm.attach(pipe, trained)
    monkeypatch.chdir(tmp_path)
    said = listen(lambda: exec(snippet, {"pipe": pipe, "recipe": recipe}))
    assert said == [] and list(tmp_path.glob("*.png"))
