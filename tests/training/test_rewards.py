"""Rewards by name: networks that people's choices trained, beside transformers' own use of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor

from lcm.evaluation.features import padded, shaped, squared
from lcm.evaluation.nets.clip import MEAN, STD, tokenizer_of
from lcm.training.rewards import load_reward
from tests.support.evaluations import write_clip
from tests.support.outputs import lines_of_updates
from tests.support.runs import expect_refusal, flags, run

PROMPTS = ["a red star", "blue"]


def pictures(height: int, width: int) -> list[Image.Image]:
    """Smooth ones, so that rounding to 8 bits is all that resizing differs by."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.stack([np.sin(x / a), np.cos(y / a), np.sin((x + y) / a)], 2) for a in (9, 14)]
    return [Image.fromarray((127.5 + 127 * wave).astype(np.uint8)) for wave in waves]


def as_tensor(images: list[Image.Image]) -> Tensor:
    arrays = [np.asarray(image, np.float32).transpose(2, 0, 1) / 255 for image in images]
    return torch.from_numpy(np.stack(arrays))


@pytest.mark.parametrize("size", [(64, 64), (40, 72), (72, 40), (9, 9), (16, 16), (33, 17)])
@pytest.mark.parametrize("whole", [False, True])
def test_a_tensor_is_put_before_a_network_as_a_picture_is(
    size: tuple[int, int], whole: bool
) -> None:
    images = pictures(*size)
    fit = padded if whole else squared
    expected = torch.stack([fit(image, 24, [0.0] * 3, [1.0] * 3) for image in images])
    found = shaped(as_tensor(images), 24, [0.0] * 3, [1.0] * 3, whole=whole)
    assert (found - expected).abs().max() <= 1.01 / 255
    assert (found.mean((2, 3)) - expected.mean((2, 3))).abs().max() < 0.5 / 255


@pytest.mark.parametrize(
    ("name", "folder"), [("clip", "clip-vit-large-patch14"), ("pick_score", "")]
)
def test_a_reward_is_what_transformers_makes_of_picture_and_prompt(
    tmp_path: Path, name: str, folder: str
) -> None:
    """logits_per_image of the stock model and its stock image processor: CLIP's scaled cosine,
    which is what PickScore calls its score. More of it is where its gradient points.
    """
    weights = tmp_path / folder
    stock = write_clip(weights)
    images = pictures(24, 40)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 16},
        crop_size={"height": 16, "width": 16},
        image_mean=MEAN,
        image_std=STD,
    )
    words = tokenizer_of(weights)(PROMPTS, padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        pixels = processor(images, return_tensors="pt")["pixel_values"]
        expected = stock(
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            pixel_values=pixels,
        ).logits_per_image.diagonal()
    reward = load_reward(name, str(tmp_path))
    seen = as_tensor(images).requires_grad_()
    found = reward(seen, PROMPTS)
    torch.testing.assert_close(found.detach(), expected, rtol=0.0, atol=0.02)
    (slope,) = torch.autograd.grad(found.sum(), seen)
    with torch.no_grad():
        after = reward(seen + 0.02 * slope / slope.abs().max(), PROMPTS)
    assert (after > found).all()


def test_a_run_learns_by_a_network_that_is_named(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    """In the first update two weights differ by that of the network's answer, which is minus its
    column in metrics.jsonl.
    """
    write_clip(tmp_path / "weights")
    given = {"reward": "clip", "reward_weights": tmp_path / "weights", "reward_share": 1.0}
    given |= {"weighting": "uniform", "max_train_steps": 1, "validation_prompts": ["none"]}
    for weight in (1, 3):
        out = tmp_path / str(weight)
        assert run(sd_folder, images, out, terms=f"reward={weight}", **given) == 0
    (once,), (thrice,) = (lines_of_updates(tmp_path / str(weight)) for weight in (1, 3))
    assert once["loss_reward"] == thrice["loss_reward"] < 0
    assert thrice["loss"] - once["loss"] == pytest.approx(2 * once["loss_reward"], rel=1e-4)


def test_weights_that_are_not_there_are_said_before_a_model_is_loaded(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that brings them to the folder that was named."""
    given = {"terms": "reward", "reward": "hpsv2"}
    (tmp_path / "weights").mkdir()
    for place, *says in (
        ("weights", "reward hpsv2: HPS_v2.1_compressed.pt is not in", "get it with hf download"),
        ("nowhere", "reward_weights: ", "nowhere is no folder"),
    ):
        where = str(tmp_path / place)
        line = flags(tmp_path / "no", images, tmp_path / "out", **given, reward_weights=where)
        expect_refusal(capsys, line, *says)
    assert not (tmp_path / "out").exists()
