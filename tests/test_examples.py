"""The scripts in examples/ do what they say, on the tiny world."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from examples import distil, quickstart
from examples.shapes.render import write_dataset
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the defaults are relative to it


def test_the_quick_start_draws_what_was_asked_for(tmp_path: Path) -> None:
    for steps in ("1", "2"):
        quickstart.main(
            ["--prompt", "a red star on a navy background", "--steps", steps, "--output", str(tmp_path / f"{steps}.png")]
        )
    one, two = (Image.open(tmp_path / f"{steps}.png") for steps in ("1", "2"))
    assert one.size == two.size == (64, 64) and one.tobytes() != two.tobytes()
    corners = [one.getpixel(place) for place in ((0, 0), (63, 0), (0, 63), (63, 63))]
    assert all(blue > red and blue > green for red, green, blue in corners)  # navy


def test_training_from_python_ends_with_a_picture(tmp_path: Path) -> None:
    write_dataset(tmp_path / "shapes", num_images=4)
    flags = "--lora_rank 2 --train_batch_size 2 --max_train_steps 1 --validation_num_steps 1 --validation_prompts star"
    distil.main([*flags.split(), "--train_data_dir", str(tmp_path / "shapes"), "--output_dir", str(tmp_path / "out")])
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()
    assert Image.open(tmp_path / "out" / "image.png").size == (64, 64)
