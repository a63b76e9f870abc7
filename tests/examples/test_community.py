"""The community of the tiny world: its styles, its models as stock pipelines, its judge, and the
tables of its experiment.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from examples.shapes.community import experiment, make
from examples.shapes.community.delta import pack, unpack
from examples.shapes.community.experiment import Cell, cells, measured, teacher_flags
from examples.shapes.community.judge import StyleJudge
from examples.shapes.community.load import FINE_TUNES, MODELS, STYLE_LORAS, apply, community_model
from examples.shapes.community.styles import STYLES
from examples.shapes.community.tables import filled
from examples.shapes.demo import TEACHER
from examples.shapes.evaluate import decode
from examples.shapes.render import BACKGROUNDS, COLORS, Scene, sample_dataset, write_dataset
from examples.shapes.train_vae import to_pixels
from lcm.adapter.lora import lora_modules
from lcm.config.command_line import parse_config
from tests.support import ROOT

SQUARE = Scene("square", "blue", "brown", x=32, y=32, radius=16, rotation=math.pi / 4)
"""Sides parallel to the picture's, from 20.7 to 43.3 pixels."""
BLUE, BROWN = np.array(COLORS["blue"]), np.array(BACKGROUNDS["brown"])


def near(pixel: np.ndarray, expected: Any) -> bool:
    return bool(np.abs(pixel.astype(float) - expected).max() <= 1.0)


def test_a_sticker_has_a_black_line_in_a_white_one() -> None:
    row = STYLES["outlined"](SQUARE)[32]
    assert near(row[32], BLUE)
    assert near(row[21], 0)
    assert near(row[18], 255)
    assert near(row[14], BROWN)


def test_pastel_fades_up_in_the_figure_and_down_in_the_background() -> None:
    picture = STYLES["pastel"](SQUARE)
    assert near(picture[0, 5], 0.9 * BROWN + 0.1 * 255)
    assert near(picture[63, 5], 0.4 * BROWN + 0.6 * 255)
    assert (picture[24, 32] > picture[40, 32]).all()


def test_the_shadow_falls_to_the_right_and_down() -> None:
    picture = STYLES["shadow"](SQUARE)
    assert near(picture[32, 32], BLUE)
    assert near(picture[46, 46], 0)
    assert near(picture[18, 18], 0.7 * BROWN + 0.3 * 255)


def test_neon_glows_in_the_figure_s_colour() -> None:
    picture = STYLES["neon"](SQUARE)
    assert near(picture[32, 32], BLUE)
    assert near(picture[0, 0], 0.7 * BROWN)
    distance = np.abs(picture[32, :20].astype(float) - BLUE).sum(axis=1)
    assert (np.diff(distance) <= 0).all()
    assert distance[0] > 2 * distance[-1]


def test_a_data_set_goes_through_its_styles(tmp_path: Path) -> None:
    write_dataset(tmp_path, 2 * 192, seed=3, styles=[STYLES["plain"], STYLES["shadow"]])
    for i, style in ((191, "plain"), (192, "shadow")):
        scene = sample_dataset(2 * 192, 3)[i]
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / f"{i:05d}.png")), STYLES[style](scene)
        )


@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_the_judge_knows_renders_and_what_the_decoder_makes_of_them(style: str) -> None:
    judge, pipe, scenes = StyleJudge.load(), community_model("plain"), sample_dataset(192, 20_000)
    captions = [scene.caption for scene in scenes]
    renders = np.stack([STYLES[style](scene) for scene in scenes])
    agrees = judge.agrees([Image.fromarray(picture) for picture in renders], captions, style)
    assert agrees.mean(axis=0).min() >= 0.97
    latents = (
        pipe.vae.encode(to_pixels(renders[::4])).latent_dist.mean * pipe.vae.config.scaling_factor
    )
    assert judge.agrees(decode(pipe, latents), captions[::4], style).mean(axis=0).min() >= 0.9
    other = "plain" if style != "plain" else "shadow"
    assert not judge.agrees([Image.fromarray(picture) for picture in renders], captions, other)[
        :, 3
    ].any()


def test_a_packed_difference_of_low_rank_comes_back_within_the_levels_of_int8() -> None:
    generator = torch.Generator().manual_seed(0)
    before = {
        "conv": torch.randn(6, 4, 3, 3, generator=generator),
        "bias": torch.randn(6, generator=generator),
    }
    change = torch.outer(
        torch.randn(6, generator=generator), torch.randn(36, generator=generator)
    ).reshape(6, 4, 3, 3)
    after = {"conv": before["conv"] + change, "bias": before["bias"] + 0.5}
    packed = pack(before, after, rank=1)
    assert packed["conv.up"].dtype == torch.int8
    assert packed["conv.down"].shape == (1, 36)
    assert (
        unpack(packed, "conv", before["conv"]) - change
    ).abs().max() <= change.abs().max() * 1.1 / 127
    assert torch.allclose(unpack(packed, "bias", before["bias"]), torch.full((6,), 0.5), atol=1e-3)


@pytest.mark.parametrize("name", FINE_TUNES)
def test_a_fine_tune_is_a_stock_pipeline_with_other_weights(name: str, tmp_path: Path) -> None:
    pipe = community_model(name)
    assert type(pipe) is StableDiffusionPipeline
    teacher = load_file(TEACHER / "unet" / "diffusion_pytorch_model.safetensors")
    for key, weight in pipe.unet.state_dict().items():
        assert (weight != teacher[key]).any(), key
    pipe.unet.save_pretrained(tmp_path)
    again = UNet2DConditionModel.from_pretrained(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(pipe.unet.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.parametrize("name", STYLE_LORAS)
def test_the_style_lora_is_an_ordinary_one(name: str) -> None:
    layers = lora_modules(community_model(name, 0.6).unet)
    assert {key.rpartition("attn")[2][2:] for key in layers} == {"to_q", "to_k", "to_v", "to_out.0"}
    assert all(layer.scaling["style"] == pytest.approx(0.6 * 0.5) for layer in layers.values())
    assert all(layer.lora_B["style"].weight.any() for layer in layers.values())
    with safe_open(MODELS / f"{name}.safetensors", "pt") as file:
        assert not file.metadata()


@pytest.mark.parametrize("lora_rank", ["0", "2"])
def test_the_script_makes_a_model(
    lora_rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [
        "--num_images",
        "8",
        "--num_steps",
        "2",
        "--batch_size",
        "2",
        "--learning_rate",
        "1e-2",
        "--lora_rank",
        lora_rank,
    ]
    monkeypatch.setattr(
        "sys.argv", ["make", "--style", "shadow", "--output_dir", str(tmp_path), *few]
    )
    make.main()
    pipe = community_model("plain")
    before = [weight.clone() for weight in pipe.unet.parameters()]
    if lora_rank == "0":
        apply(pipe.unet, tmp_path / "shadow.safetensors")
        assert all((a != b).any() for a, b in zip(before, pipe.unet.parameters(), strict=True))
    else:
        pipe.load_lora_weights(tmp_path, weight_name="shadow.safetensors", adapter_name="style")
        assert any(layer.lora_B["style"].weight.any() for layer in lora_modules(pipe.unet).values())


def test_no_cell_is_measured_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Cell] = []
    monkeypatch.setattr(
        experiment, "measure", lambda cell, *_: asked.append(cell) or dict(vars(cell))
    )
    measured(tmp_path, Path("x.yaml"), 8)
    assert len(asked) == len(set(cells())) == len(list(cells()))
    rows = json.loads((tmp_path / "scores.json").read_text())
    (tmp_path / "scores.json").write_text(json.dumps(rows[:-1]))
    measured(tmp_path, Path("x.yaml"), 8)
    assert asked[-1] == list(cells())[-1] == asked[len(rows) - 1]
    assert len(asked) == len(rows) + 1


def test_every_adapter_s_flags_parse(tmp_path: Path) -> None:
    for adapter in sorted({cell.adapter for cell in cells()} - {"none", "shipped"}):
        data = ["--config", str(ROOT / "examples/shapes/short.yaml"), "--train_data_dir", "x"]
        config = parse_config([*data, *teacher_flags(adapter, tmp_path)])
        assert (config.teacher.path == "examples/shapes/teacher") == (
            adapter.removeprefix("own-") not in FINE_TUNES
        )


def test_tables_are_what_the_raw_results_say() -> None:
    text = (ROOT / "examples" / "shapes" / "community" / "README.md").read_text()
    assert filled(text) == text
