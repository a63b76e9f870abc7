"""The measures of the benchmark obey their laws. What it measures is not asserted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.methods.metrics import (
    frechet_distance,
    judge_fd,
    judge_features,
    places,
)
from benchmarks.methods.plan import Run
from benchmarks.methods.scoring import check_num_images
from benchmarks.methods.students import randomise, words
from examples.shapes.evaluate import diversity_ratio
from examples.shapes.judge import Judge
from examples.shapes.render import render, sample_dataset
from lcm.adapter.files import read_header
from tests.support import ROOT


def test_diversity_is_a_ratio_of_variances_within_prompts() -> None:
    generator = torch.Generator().manual_seed(0)
    means = 10 * torch.randn(1, 192, 4, 8, 8, generator=generator)
    deviations = torch.randn(8, 192, 4, 8, 8, generator=generator)
    deviations -= deviations.mean(dim=0)
    teacher = (means + deviations).flatten(0, 1)
    assert diversity_ratio(teacher, teacher) == 1.0
    for a in (0.0, 0.5, 2.0):
        student = (3.0 - means + a * deviations).flatten(0, 1)  # other means do not count
        assert diversity_ratio(student, teacher) == pytest.approx(a**2, abs=1e-6)
    with pytest.raises(ValueError, match="at least 384"):
        diversity_ratio(teacher[:192], teacher[:192])


def test_places_are_those_of_the_renderer() -> None:
    scenes = sample_dataset(192, seed=4)
    found = places([Image.fromarray(render(scene)) for scene in scenes]).numpy()
    # pixel i covers i..i+1; polygons of uneven symmetry have their centre of area elsewhere
    even = [
        i
        for i, scene in enumerate(scenes)
        if scene.shape in ("circle", "square", "cross", "ring", "star")
    ]
    truth = np.array([(scene.x - 0.5, scene.y - 0.5) for scene in scenes])
    assert np.abs(found[even, :2] - truth[even]).max() < 0.75
    circles = [i for i, scene in enumerate(scenes) if scene.shape == "circle"]
    radii = np.array([scenes[i].radius for i in circles])
    np.testing.assert_allclose(found[circles, 2], radii * math.sqrt(math.pi), rtol=0.03)
    blank = places([Image.new("RGB", (64, 64), (15, 15, 15))])
    assert blank.tolist() == [[32.0, 32.0, 0.0]]


def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    features = np.random.default_rng(0).normal(size=(300, 64)) @ np.random.default_rng(1).normal(
        size=(64, 64)
    )
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(features, features[::-1] + 0.5) == pytest.approx(64 * 0.25, rel=1e-6)
    flat = np.concatenate([features[:, :3], np.zeros((300, 61))], axis=1)  # singular covariance
    assert frechet_distance(flat, flat) == pytest.approx(0.0, abs=1e-5)


def test_frechet_distance_of_two_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(200_000, 3)) * [1.0, 2.0, 0.5]
    b = rng.normal(size=(200_000, 3)) * [3.0, 1.0, 0.5] + [1.0, 0.0, -2.0]
    # of commuting covariances: |mu|^2 + sum (sd_a - sd_b)^2
    assert frechet_distance(a, b) == pytest.approx(5.0 + 4.0 + 1.0 + 0.0, rel=0.02)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_judge_fd_uses_no_seed_twice_and_the_teacher_itself_has_the_floor() -> None:
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(800, 8))
    distance, floor = judge_fd(teacher, teacher)
    assert distance == floor > 0
    spoiled = np.concatenate([teacher[:400], rng.normal(size=(400, 8)) + 100])
    assert judge_fd(spoiled, teacher) == (distance, floor)
    assert judge_fd(teacher + 1.0, teacher)[0] > floor + 4


def test_features_are_what_the_heads_of_the_judge_see() -> None:
    judge = Judge.load()
    images = [Image.fromarray(render(scene)) for scene in sample_dataset(7, seed=1)]
    features = judge_features(judge, images, batch_size=3)
    assert features.shape == (7, 64)
    pixels = (
        torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
        / 127.5
        - 1
    )
    with torch.no_grad():
        expected = judge(pixels)["shape"]
        seen = judge.heads["shape"](torch.from_numpy(features))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)


def test_sets_that_cannot_be_halved_are_refused() -> None:
    check_num_images(768)
    for count in (0, 192, 500, 576):
        with pytest.raises(ValueError, match="multiple of 384"):
            check_num_images(count)


def test_a_random_adapter_has_the_norms_and_the_header_of_its_model(tmp_path: Path) -> None:
    source = ROOT / "examples" / "shapes" / "lcm_lora" / "pytorch_lora_weights.safetensors"
    target = tmp_path / "new" / "a.safetensors"
    randomise(source, target, seed=0)
    trained, noise = load_file(source), load_file(target)
    assert read_header(target) == read_header(source)
    assert trained.keys() == noise.keys()
    for name, value in trained.items():
        assert (noise[name].shape, noise[name].dtype) == (value.shape, value.dtype)
        assert float(noise[name].double().norm()) == pytest.approx(
            float(value.double().norm()), rel=2e-3
        ), name
        if name.endswith(".alpha"):
            assert torch.equal(noise[name], value)
        elif value.norm() > 0:
            a, b = noise[name].double().flatten(), value.double().flatten()
            assert abs(float(a @ b / (a.norm() * b.norm()))) < 0.2, name
    randomise(source, tmp_path / "other.safetensors", seed=1)
    assert any(
        not torch.equal(noise[name], value)
        for name, value in load_file(tmp_path / "other.safetensors").items()
    )


def test_flags_become_words_of_a_command_line() -> None:
    flags = {"phases": 4, "landing_steps": [4, 8], "guidance_scale": None, "as_control": True}
    data = {"images": Path("x"), "prompts": Path("y")}
    given = ["--phases", "4", "--landing_steps", "4", "8", "--as_control", "True"]
    assert words(Run("a", flags).flags_on(data)) == [*given, "--train_data_dir", "x"]
    assert words(Run("a", flags, data="prompts").flags_on(data)) == [*given, "--prompts_file", "y"]
