"""Style LoRAs folded into the teacher: as stock diffusers plays them, in every layout, and noticed
by all that depends on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lcm.adapter.lora import adaptable
from lcm.config.command_line import parse_config
from lcm.data.precomputed.latents import latent_facts
from lcm.data.precomputed.prompts import prompt_rows
from lcm.data.precomputed.trajectories import TrajectorySpec, trajectory_key
from lcm.models.families import StableDiffusion
from lcm.models.styles import Style, fold_styles
from lcm.training.result import UNetResult
from lcm.training.teachers import styles_of
from tests.support.adapters import stock_load
from tests.support.pipelines import SIZE, draw
from tests.support.runs import flags
from tests.support.styles import PROMPT
from tests.support.worlds import build_sd, build_sdxl


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("a/b.safetensors", Style("a/b.safetensors", 1.0)),
        ("a/b.safetensors=0.75", Style("a/b.safetensors", 0.75)),
        ("someone/ink=-1e-1", Style("someone/ink", -0.1)),
        ("a=b/c=2", Style("a=b/c", 2.0)),
    ],
)
def test_a_style_is_a_path_and_a_weight(text: str, style: Style) -> None:
    assert Style.parse(text) == style


def test_a_weight_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="teacher_lora: 'b' in a=b is no weight"):
        Style.parse("a=b")


@pytest.mark.parametrize(
    "name", ["text.safetensors", "unet.safetensors", "kohya.safetensors", "sd", "sdxl"]
)
def test_the_folded_teacher_is_the_stock_pipeline_with_the_lora_at_that_weight(
    name: str, styles: Path
) -> None:
    build = build_sdxl if name == "sdxl" else build_sd
    options = {**SIZE, "num_inference_steps": 3}
    stock, folded, plain = build(), build(), draw(build(), **options)
    stock_load(stock, styles / name, "style")
    stock.set_adapters("style", 0.7)
    fold_styles(folded, [Style(str(styles / name), 0.7)])
    assert np.abs(draw(folded, **options) - plain).max() > 1e-2
    np.testing.assert_allclose(draw(folded, **options), draw(stock, **options), rtol=0, atol=1e-5)


def test_the_sum_is_taken_in_float32_and_rounded_once(styles: Path) -> None:
    """Expected is W + sum of weight B A by hand, of a file with alpha = rank."""
    base = build_sd().to(torch.bfloat16)
    pipe = build_sd().to(torch.bfloat16)
    state = load_file(styles / "text.safetensors")
    fold_styles(
        pipe,
        [
            Style(str(styles / "text.safetensors"), 0.7),
            Style(str(styles / "other.safetensors"), -0.1),
        ],
    )
    for name, model in adaptable(pipe).items():
        for key, value in adaptable(base)[name].state_dict().items():
            expected, down = value, f"{name}.{key.removesuffix('.weight')}.lora_A.weight"
            if down in state:
                product = state[down.replace("lora_A", "lora_B")] @ state[down]
                expected = (value.float() + 0.7 * product + -0.1 * 4 * product).to(torch.bfloat16)
            assert torch.equal(model.state_dict()[key], expected) or down in state
            torch.testing.assert_close(model.state_dict()[key], expected, rtol=2**-8, atol=1e-6)


def test_a_weight_of_zero_is_the_plain_teacher(styles: Path) -> None:
    base, pipe = build_sd(), build_sd()
    fold_styles(pipe, [Style(str(styles / "text.safetensors"), 0.0)])
    for name, model in adaptable(pipe).items():
        for key, value in adaptable(base)[name].state_dict().items():
            assert torch.equal(model.state_dict()[key], value), key
    assert pipe.get_list_adapters() == {}


def strange(folder: Path, styles: Path) -> dict[str, Path]:
    """Files that are no style of this teacher."""
    state = load_file(styles / "text.safetensors")
    files = {
        "elsewhere": {
            key.replace("down_blocks.0", "down_blocks.7"): value for key, value in state.items()
        },
        "no encoder": {key.replace("layers.1", "layers.9"): value for key, value in state.items()},
        "no lora": {"conv_in.weight": torch.zeros(2, 2)},
    }
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    (folder / "text.safetensors").write_text("no tensors")
    return {path.stem: path for path in folder.glob("*.safetensors")} | {
        "sdxl": styles / "sdxl",
        "nowhere": folder / "nowhere",
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("elsewhere", r"no layer unet.down_blocks.7.* another kind of model"),
        ("no encoder", r"no layer text_encoder.* another kind of model"),
        ("no lora", "holds no LoRA"),
        ("text", "no safetensors file"),
        ("sdxl", r"no layer text_encoder_2.* another kind of model"),
        ("nowhere", "no adapter at"),
    ],
)
def test_a_file_that_would_do_nothing_is_refused(
    name: str, reason: str, styles: Path, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=rf"^teacher_lora.*({reason})"):
        fold_styles(build_sd(), [Style(str(strange(tmp_path, styles)[name]))])


def test_caches_are_those_of_the_style(styles: Path) -> None:
    """Prompts are encoded anew where the text encoder changes, not where the U-Net alone does;
    latents never are.
    """
    spec = TrajectorySpec(
        num_steps=4, solver="ddim", solver_steps=1, guidance_range=(7.5, 7.5), seed=0, resolution=16
    )
    keys = []
    for chosen in (
        [],
        [Style(str(styles / "unet.safetensors"))],
        [Style(str(styles / "text.safetensors"), w) for w in (0.5, 0.25)],
    ):
        pipe = build_sd()
        fold_styles(pipe, chosen)
        family = StableDiffusion(pipe)
        prompts = prompt_rows(family, [PROMPT])[0].facts["model"]
        keys.append(
            (latent_facts(family, "bilinear")["model"], prompts, trajectory_key(family, [], spec))
        )
    latents, prompts, trajectories = map(set, zip(*keys, strict=True))
    assert (len(latents), len(prompts), len(trajectories)) == (1, 2, 3)


def test_a_whole_unet_cannot_carry_a_text_encoder(
    sd_folder: Path, images: Path, styles: Path, tmp_path: Path
) -> None:
    style = styles / "text.safetensors"
    config = parse_config(
        flags(sd_folder, images, tmp_path, teacher_lora=style, full_finetune=True, lora_rank=None)
    )
    with pytest.raises(ValueError, match=r"teacher_lora: .* also adapts 6 layers of text encoders"):
        UNetResult.check_styles(styles_of(config.teacher))
