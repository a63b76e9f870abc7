"""The world of textures: a render shows what its caption says, and what is bundled is what the
README says it is. What every world must have is asked of all of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextModel

from examples import worlds
from examples.patterns.render import COLORS, GROUNDS, PERIODS, WORLD, Texture, render
from examples.shapes import train_teacher
from examples.shapes.evaluate import decode, generate, load_pipe, other_seeds, prompts_and_seeds
from examples.shapes.judge import Judge
from examples.shapes.networks import load_text_encoder
from examples.shapes.report import round_trip
from examples.shapes.tables import filled
from examples.shapes.tokenizer import build_tokenizer
from examples.worlds import World, load_world
from tests.support import ROOT

TEACHER = WORLD.folder / "teacher_v"
STRIPES = Texture("wide", "red", "white", "stripes", 32.0, x=0, y=0, tilt=0.0, contrast=1.0)
every_world = pytest.mark.parametrize("world", [load_world(name) for name in worlds.NAMES])


def where(texture: Texture) -> np.ndarray:
    """[64, 64] bool: where a texture of full contrast has its first colour."""
    assert texture.contrast == 1.0
    picture = render(texture).astype(int)
    far = [np.abs(picture - rgb).sum(-1) for rgb in (COLORS["red"], GROUNDS["white"])]
    return far[0] < far[1]


def test_stripes_have_the_period_and_the_colours_of_their_scene() -> None:
    assert (where(STRIPES) == (np.arange(64) % 32 < 16)[None]).all()
    assert (where(replace(STRIPES, x=5)) == ((np.arange(64) - 5) % 32 < 16)[None]).all()
    picture = render(STRIPES)
    assert tuple(picture[3, 3]) == COLORS["red"] and tuple(picture[3, 20]) == GROUNDS["white"]


def test_each_pattern_is_what_its_name_says() -> None:
    checks = where(replace(STRIPES, pattern="checks", period=25.6))  # cells of 16 pixels
    assert (checks[:48] != checks[16:]).all() and (checks[:, :48] != checks[:, 16:]).all()
    dots = where(replace(STRIPES, pattern="dots"))
    assert dots[16, 16] and not dots[0].any() and not dots[:, 32].any()
    assert dots.mean() == pytest.approx(np.pi * 0.36**2, abs=0.02)
    rings = where(replace(STRIPES, pattern="rings", x=32, y=32))
    assert rings[32, 33] and not rings[32, 32 + 20] and not rings[32 - 20, 32]
    assert (rings == rings.T).all()


def test_a_tilted_pattern_of_less_contrast() -> None:
    sideways = where(replace(STRIPES, tilt=np.pi / 2))
    assert (sideways == (np.arange(64) % 32 < 16)[:, None]).all()
    pale = render(replace(STRIPES, contrast=0.0)).astype(int)
    assert np.abs(pale - (np.array(COLORS["red"]) + GROUNDS["white"]) / 2).max() <= 0.5


def test_what_captions_name_cannot_be_mistaken() -> None:
    assert not set(COLORS) & set(GROUNDS)
    assert PERIODS["fine"][1] < 0.7 * PERIODS["wide"][0]
    assert "fine blue and white dots" in WORLD.captions


@every_world
def test_captions_labels_and_scenes_agree(world: World) -> None:
    values = list(world.heads.values())
    assert len(set(world.captions)) == len(world.captions) == np.prod([len(v) for v in values])
    scenes = world.sample_dataset(2 * len(world.captions), seed=3)
    assert [scene.caption for scene in scenes] == [*world.captions] * 2
    assert scenes == world.sample_dataset(len(scenes), seed=3)
    assert scenes != world.sample_dataset(len(scenes), seed=4)
    for text, labels in world.labels.items():
        assert {names[i] for names, i in zip(values, labels, strict=True)} <= set(text.split())


@every_world
def test_every_world_has_words_pictures_and_prompts_of_its_own(world: World) -> None:
    tokenizer = build_tokenizer(world=world)
    assert all(len(tokenizer.tokenize(text)) == len(text.split()) for text in world.captions)
    prompts, seeds = prompts_and_seeds(len(world.captions) + 2, world)
    assert prompts == [*world.captions, *world.captions[:2]]
    assert seeds == list(range(len(prompts)))
    picture = world.render(world.sample_dataset(1, 0)[0])
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    with pytest.raises(ValueError, match=f"multiple of {len(world.captions)}"):
        other_seeds(torch.zeros(len(world.captions), 4), world)


def test_the_judge_knows_held_out_renders_and_is_not_fooled_by_other_captions() -> None:
    judge, scenes = Judge.load(world=WORLD), WORLD.sample_dataset(192, seed=987)
    images = [Image.fromarray(render(scene)) for scene in scenes]
    captions = [scene.caption for scene in scenes]
    assert judge.accuracy(images, captions) >= 0.98
    assert judge.accuracy(images, captions[1:] + captions[:1]) <= 0.005


@every_world
def test_tables_are_what_the_raw_results_say(world: World) -> None:
    text = (world.folder / "README.md").read_text(encoding="utf-8")
    assert filled(text, world) == text


def test_the_teacher_is_a_v_prediction_one_in_half_precision_and_draws_what_it_is_told() -> None:
    weights = list(TEACHER.rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in weights) < 11 * 2**20
    for path in weights:
        assert {value.dtype for value in load_file(path).values()} == {torch.float16}
    pipe, judge = load_pipe(TEACHER), Judge.load(world=WORLD)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.scheduler.config.rescale_betas_zero_snr is True
    scenes = WORLD.sample_dataset(192, seed=55)[::5]
    captions = [scene.caption for scene in scenes]
    restored = round_trip(pipe, np.stack([render(scene) for scene in scenes]))
    assert judge.accuracy(restored, captions) >= 0.92
    prompts = list(WORLD.captions[::7])
    images = decode(pipe, generate(pipe, prompts, range(len(prompts)), 10, 5.0))
    assert judge.accuracy(images, prompts) >= 0.75  # the README: 40 steps, 1536 pictures


def test_a_text_encoder_of_another_world_keeps_the_words_that_both_have() -> None:
    other = ROOT / "examples" / "shapes" / "teacher_v"
    encoder = load_text_encoder(other, build_tokenizer(world=WORLD))
    known = CLIPTextModel.from_pretrained(other / "text_encoder")
    with torch.no_grad():
        ours, theirs = (
            model(tokenizer("red white", return_tensors="pt").input_ids).last_hidden_state
            for model, tokenizer in (
                (encoder, build_tokenizer(world=WORLD)),
                (known, build_tokenizer()),
            )
        )
    assert torch.equal(ours, theirs)
    assert encoder.config.vocab_size == len(build_tokenizer(world=WORLD))


def test_the_script_trains_a_teacher_of_a_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: dict[str, Any] = {
        "--world": "patterns",
        "--output_dir": tmp_path / "teacher",
        "--vae": TEACHER / "vae",
        "--prediction_type": "v_prediction",
        "--num_images": 8,
        "--num_steps": 1,
        "--batch_size": 2,
        "--state": tmp_path / "state.pt",
    }
    words = [str(word) for flag in flags.items() for word in flag]
    monkeypatch.setattr("sys.argv", ["train_teacher", *words, "--widths", "16", "32"])
    train_teacher.main()
    pipe = load_pipe(tmp_path / "teacher")
    assert tuple(pipe.unet.config.block_out_channels) == (16, 32)
    assert pipe.tokenizer.tokenize("fine dots") == ["fine</w>", "dots</w>"]
