"""The tiny world: what is bundled is what the README says it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

import lcm
from examples.shapes import experiment
from examples.shapes.evaluate import (
    decode,
    endpoint_nmse,
    generate,
    interval,
    load_pipe,
    prompts_and_seeds,
)
from examples.shapes.judge import CAPTION_TO_LABELS, Judge
from examples.shapes.pictures import LABEL_WIDTH
from examples.shapes.render import (
    ATTRIBUTES,
    BACKGROUNDS,
    CAPTIONS,
    COLORS,
    SHAPES,
    Scene,
    render,
    sample_dataset,
    write_dataset,
)
from examples.shapes.tokenizer import build_tokenizer
from tests.support import ROOT

SHAPES_FOLDER = ROOT / "examples" / "shapes"
TEACHERS = ("teacher", "teacher_v")


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


def test_there_are_192_captions_and_all_differ() -> None:
    assert (
        len(CAPTIONS) == len(set(CAPTIONS)) == len(SHAPES) * len(COLORS) * len(BACKGROUNDS) == 192
    )
    assert "a red star on a navy background" in CAPTIONS
    assert "an orange ring on a black background" in CAPTIONS


def test_a_render_shows_its_colours_where_they_belong() -> None:
    picture = render(Scene("square", "red", "navy", x=32, y=32, radius=20, rotation=0.3))
    assert picture.shape == (64, 64, 3)
    assert tuple(picture[32, 32]) == COLORS["red"]
    assert tuple(picture[2, 2]) == BACKGROUNDS["navy"]
    ring = render(Scene("ring", "red", "navy", x=32, y=32, radius=20, rotation=0.0))
    assert tuple(ring[32, 32]) == BACKGROUNDS["navy"]
    assert tuple(ring[32, 32 - 16]) == COLORS["red"]


def test_shapes_stay_inside_and_a_seed_repeats_the_data_set() -> None:
    scenes = sample_dataset(960, seed=3)
    for scene in scenes[::7]:
        picture = render(scene)
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (border == np.array(BACKGROUNDS[scene.background])).all()
    assert scenes == sample_dataset(960, seed=3)
    assert [scenes[i].caption for i in range(192)] == list(CAPTIONS)


def test_written_data_set_is_an_image_folder(tmp_path: Path) -> None:
    import datasets

    write_dataset(tmp_path, 4)
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [row["text"] for row in rows] == list(CAPTIONS[:4])


def test_every_word_of_the_captions_is_one_token_and_other_text_still_tokenises() -> None:
    tokenizer = build_tokenizer()
    for text in CAPTIONS:
        assert tokenizer.tokenize(text) == [f"{word}</w>" for word in text.split()]
    ids = tokenizer("a red star", padding="max_length").input_ids
    assert len(ids) == tokenizer.model_max_length == 77
    assert ids[0] == tokenizer.bos_token_id
    assert ids[4:] == [tokenizer.eos_token_id] * 73
    assert len(tokenizer.tokenize("Über-ocelot!")) > 3


def test_labels_follow_the_captions() -> None:
    for text, (shape, color, background) in zip(CAPTIONS, ATTRIBUTES, strict=True):
        labels = CAPTION_TO_LABELS[text]
        assert (SHAPES[labels[0]], list(COLORS)[labels[1]], list(BACKGROUNDS)[labels[2]]) == (
            shape,
            color,
            background,
        )


def test_judge_knows_held_out_renders_and_is_not_fooled_by_other_captions(judge: Judge) -> None:
    scenes = sample_dataset(576, seed=987)
    images = [Image.fromarray(render(scene)) for scene in scenes]
    captions = [scene.caption for scene in scenes]
    assert judge.accuracy(images, captions) >= 0.995
    assert judge.accuracy(images, captions[1:] + captions[:1]) <= 0.005


@pytest.mark.parametrize("teacher", TEACHERS)
def test_weights_are_half_precision_and_load_as_the_facts_say(teacher: str) -> None:
    for path in (SHAPES_FOLDER / teacher).rglob("*.safetensors"):
        assert {value.dtype for value in load_file(path).values()} == {torch.float16}
        assert path.stat().st_size < 12 * 2**20
    pipe = StableDiffusionPipeline.from_pretrained(
        SHAPES_FOLDER / teacher, torch_dtype=torch.float32
    )
    assert {component.dtype for component in (pipe.unet, pipe.vae, pipe.text_encoder)} == {
        torch.float32
    }
    v = teacher == "teacher_v"
    assert pipe.scheduler.config.prediction_type == ("v_prediction" if v else "epsilon")
    assert pipe.scheduler.config.rescale_betas_zero_snr is v


@pytest.mark.parametrize("teacher", TEACHERS)
def test_vae_round_trip_is_judged_right(teacher: str, judge: Judge) -> None:
    pipe = load_pipe(SHAPES_FOLDER / teacher)
    scenes = sample_dataset(384, seed=55)
    pixels = (
        torch.from_numpy(np.stack([render(scene) for scene in scenes])).permute(0, 3, 1, 2).float()
        / 127.5
        - 1
    )
    with torch.no_grad():
        latents = torch.cat([pipe.vae.encode(part).latent_dist.mode() for part in pixels.split(96)])
    images = decode(pipe, latents * pipe.vae.config.scaling_factor)
    # 99 % within the error of 384
    assert judge.accuracy(images, [scene.caption for scene in scenes]) >= 0.98


@pytest.mark.parametrize("teacher", TEACHERS)
def test_teacher_draws_what_it_is_told(teacher: str, judge: Judge) -> None:
    pipe = load_pipe(SHAPES_FOLDER / teacher)
    prompts = list(CAPTIONS[::4])
    images = decode(pipe, generate(pipe, prompts, range(48), 20, 5.0))
    # 97 % at 40 steps on 1536 pictures; this is a smaller, shorter look
    assert judge.accuracy(images, prompts) >= 0.85


def test_bundled_adapter_draws_in_four_steps_where_the_teacher_cannot(judge: Judge) -> None:
    pipe = load_pipe(SHAPES_FOLDER / "teacher")
    prompts, seeds = prompts_and_seeds(96)
    teacher = judge.accuracy(decode(pipe, generate(pipe, prompts, seeds, 4, 5.0)), prompts)
    lcm.attach(pipe, SHAPES_FOLDER / "lcm_lora")
    student = judge.accuracy(decode(pipe, generate(pipe, prompts, seeds, 4, 1.0)), prompts)
    assert student >= 0.75
    assert student > teacher + 0.2


def test_pictures_do_not_depend_on_their_batch() -> None:
    pipe = load_pipe(SHAPES_FOLDER / "teacher")
    prompts, seeds = prompts_and_seeds(4)
    whole = generate(pipe, prompts, seeds, 2, 3.0)
    parts = generate(pipe, prompts, seeds, 2, 3.0, batch_size=1)
    torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-4)


def test_the_picture_of_an_experiment_has_captions_and_seeds_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(experiment, "TEACHER_STEPS", 1)
    drawn = np.asarray(experiment.draw(SHAPES_FOLDER / "teacher", SHAPES_FOLDER / "lcm_lora", [1]))
    rows = drawn[:, LABEL_WIDTH:].reshape(4, 132, 10, 132, 3)[:, :128, :, :128]
    # the first caption with the first seed stands in both
    assert (rows[0, :, 0] == rows[1, :, 0]).all() and (rows[2, :, 0] == rows[3, :, 0]).all()
    assert (rows[0, :, 1] != rows[1, :, 1]).any() and (rows[0] != rows[2]).any()


def test_measures_by_hand() -> None:
    assert interval(0.5, 100) == pytest.approx(0.098)
    teacher, other = torch.zeros(1, 4), torch.full((1, 4), 2.0)
    assert endpoint_nmse(teacher, teacher, other) == 0.0
    assert endpoint_nmse(other, teacher, other) == 1.0
    assert endpoint_nmse(torch.ones(1, 4), teacher, other) == 0.25
