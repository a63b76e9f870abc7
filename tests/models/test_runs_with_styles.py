"""Runs on a teacher with a style: as on a saved pipeline with the style in it, and written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import lcm
import train_lcm_lora
from lcm.config.command_line import parse_config
from lcm.training.teachers import load_teachers
from tests.support.adapters import stock_load
from tests.support.grids import cells
from tests.support.runs import FROM_TRAJECTORIES, flags, same, trained, trainer_of
from tests.support.styles import PROMPT

SHORT = {
    "max_train_steps": 2,
    "validation_steps": 9,
    "validation_num_steps": [2],
    "validation_prompts": [PROMPT],
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"full_finetune": True, "lora_rank": None},
        FROM_TRAJECTORIES,
    ],
)
def test_training_is_that_on_a_saved_pipeline_with_the_style_in_it(
    changes: dict[str, Any],
    sd_folder: Path,
    images: Path,
    styles: Path,
    prompts: Path,
    tmp_path: Path,
) -> None:
    """The pipeline is made by stock calls alone."""
    style = styles / "unet.safetensors"
    pipe = StableDiffusionPipeline.from_pretrained(sd_folder, torch_dtype=torch.float32)
    stock_load(pipe, style, "style")
    pipe.set_adapters("style", 0.5)
    pipe.fuse_lora(components=["unet"])
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "teacher")
    if "objective" in changes:
        changes = {**changes, "prompts_file": prompts, "trajectory_dir": tmp_path / "trajectories"}
    folded = trainer_of(
        flags(sd_folder, images, tmp_path / "folded", teacher_lora=f"{style}=0.5", **changes)
    )
    saved = trainer_of(flags(tmp_path / "teacher", images, tmp_path / "saved", **changes))
    assert same(trained(folded, 2), trained(saved, 2))
    if "objective" in changes:  # by weights, so the two are one teacher
        assert len(list((tmp_path / "trajectories").iterdir())) == 1


@pytest.fixture(scope="module")
def finished(
    sd_folder: Path, images: Path, styles: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("run") / "out"
    both = [f"{styles / 'text.safetensors'}=0.5", styles / "sd"]
    assert train_lcm_lora.main(flags(sd_folder, images, output, **SHORT, teacher_lora=both)) == 0
    return output


def test_recipe_and_card_say_what_the_teacher_had(finished: Path) -> None:
    expected = [{"file": "text.safetensors", "weight": 0.5}, {"file": "sd", "weight": 1.0}]
    assert lcm.read_recipe(finished).teacher_loras == expected
    assert (
        "`text.safetensors` (weight 0.5) and `sd` (weight 1)"
        in (finished / "README.md").read_text()
    )


def test_the_cards_snippet_draws_the_grid_with_stock_diffusers(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So the student was validated on the teacher with its styles, text encoder included."""
    monkeypatch.chdir(finished)
    code = (finished / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "num_inference_steps=4" in code
    code = code.replace("num_inference_steps=4", "num_inference_steps=2").replace(
        "image.png", str(tmp_path / "image.png")
    )
    exec(compile(code, "README.md", "exec"), {})
    drawn = np.asarray(Image.open(tmp_path / "image.png")).astype(int)
    assert np.abs(drawn - cells(finished / "images" / "grid.png")[0, "2 steps"]).max() <= 1


def test_another_content_of_the_same_file_is_no_way_to_resume(
    sd_folder: Path, images: Path, styles: Path, tmp_path: Path
) -> None:
    style, output = tmp_path / "style.safetensors", tmp_path / "out"
    style.write_bytes((styles / "text.safetensors").read_bytes())
    trainer = trainer_of(flags(sd_folder, images, output, teacher_lora=style))
    trained(trainer, 1)
    trainer.save()
    assert trainer_of(flags(sd_folder, images, output, teacher_lora=style)).state.step == 1
    with pytest.raises(ValueError, match="teacher_lora: "):
        trainer_of(flags(sd_folder, images, output, teacher_lora=f"{style}=0.5"))
    style.write_bytes((styles / "other.safetensors").read_bytes())
    with pytest.raises(ValueError, match="files of teacher_lora whose content was another"):
        trainer_of(flags(sd_folder, images, output, teacher_lora=style))


def test_an_adapter_of_this_toolkit_is_no_style(
    finished: Path, sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    config = parse_config(flags(sd_folder, images, tmp_path, teacher_lora=finished))
    with pytest.raises(
        ValueError, match=r"teacher_lora .* is a few-step adapter .* --init_adapter"
    ):
        load_teachers(config.teacher, torch.float32)
