"""Whole runs in this process, of every family and precision, and dry ones."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import LCMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

import lcm
from lcm.adapter.names import WEIGHTS_NAME
from lcm.dry_run.rehearse import rehearse
from lcm.outputs.checkpoint import load_checkpoint
from lcm.system.image_grid import Layout
from lcm.system.text import count
from tests.support.grids import cells
from tests.support.outputs import adapted_layers
from tests.support.runs import flags, run, trainer_of, update


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_stock_diffusers_draws_the_grid_from_the_file(
    family: str, images: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A whole run, then only stock calls, as the model card prints them: every picture of the grid
    comes back.
    """
    teacher = request.getfixturevalue(f"{family}_folder")
    prompts = ["a red star", "blue"]
    assert (
        run(
            teacher,
            images,
            tmp_path,
            validation_prompts=prompts,
            validation_num_steps=[1, 2, 4, 8],
            lora_alpha=6,
            num_ddim_timesteps=40,
        )
        == 0
    )
    pipeline_class = StableDiffusionPipeline if family == "sd" else StableDiffusionXLPipeline
    pipe = pipeline_class.from_pretrained(teacher, torch_dtype=torch.float32)
    pipe.load_lora_weights(tmp_path, weight_name=WEIGHTS_NAME)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=40)
    pipe.set_progress_bar_config(disable=True)
    grid = cells(tmp_path / "images" / "grid.png")
    for row, prompt in enumerate(prompts):
        for steps in (1, 2, 4, 8):
            generator = torch.Generator("cpu").manual_seed(0)
            image = pipe(
                prompt,
                num_inference_steps=steps,
                guidance_scale=1.0,
                height=16,
                width=16,
                generator=generator,
            ).images[0]
            cell = grid[row, count(steps, "step")]
            assert np.abs(cell - np.asarray(image)).max() <= 1
    recipe = lcm.read_recipe(tmp_path)
    assert (recipe.family, recipe.scheduler_config["original_inference_steps"]) == (family, 40)


def test_bf16_trains_and_verifies(sd_folder: Path, images: Path, tmp_path: Path) -> None:
    assert (
        run(
            sd_folder,
            images,
            tmp_path,
            mixed_precision="bf16",
            gradient_checkpointing=True,
            max_train_steps=2,
        )
        == 0
    )
    trained = [
        v
        for k, v in load_checkpoint(tmp_path / "checkpoint-2").tensors.items()
        if k.startswith("trained.")
    ]
    assert len(trained) == 2 * len(adapted_layers(tmp_path))
    assert all(value.dtype == torch.float32 for value in trained)


def test_low_precision_is_computed_with_as_it_is_loaded(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    """As in pipelines: no autocast, under which norms and adapter would be float32."""
    trainer = trainer_of(flags(sd_folder, images, tmp_path, mixed_precision="bf16"))
    seen = []
    for module in trainer.state.student.unet.modules():
        module.register_forward_hook(
            lambda module, args, output: seen.append((output, torch.is_autocast_enabled("cpu")))
        )
    update(trainer, trainer.run.inputs.batches(range(1)))
    tensors = [
        (output.dtype, autocast) for output, autocast in seen if isinstance(output, torch.Tensor)
    ]
    assert len(tensors) > 100
    # sines and cosines of the time are float32
    assert set(tensors) == {
        (torch.bfloat16, False),
        (torch.float32, False),
    }
    # the average where inference comes past, teacher, target, student
    assert sum(dtype == torch.float32 for dtype, _ in tensors) == 4


def test_v_prediction_teacher_with_zero_terminal_snr_trains(
    sd_v_folder: Path, images: Path, tmp_path: Path
) -> None:
    assert run(sd_v_folder, images, tmp_path, max_train_steps=2) == 0
    recipe = lcm.read_recipe(tmp_path)
    assert (recipe.prediction_type, recipe.zero_terminal_snr) == ("v_prediction", True)
    assert recipe.scheduler_config["rescale_betas_zero_snr"] is True


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_the_teachers_own_resolution_is_trained_written_down_and_the_same_run(
    family: str, images: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """16 pixels, 8 x 8 latents of a VAE that halves."""
    teacher = request.getfixturevalue(f"{family}_folder")
    trainer = trainer_of(flags(teacher, images, tmp_path, resolution=None))
    batch = next(trainer.run.inputs.batches(range(1)))
    assert (batch.content.tensor.shape[2:], batch.noise.shape[2:]) == ((16, 16), (8, 8))
    assert trainer.run.publisher.recipe.resolution == 16
    if family == "sd":
        assert run(teacher, images, tmp_path, resolution=None, max_train_steps=1) == 0
        assert yaml.safe_load((tmp_path / "config.yaml").read_text())["resolution"] == 16
        assert json.loads((tmp_path / "data_report.json").read_text())["resolution"] == 16
        assert run(teacher, images, tmp_path, resolution=16, max_train_steps=2) == 0


def test_dry_run_reports_and_writes_nothing(
    sd_folder: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", dry_run=True))
        rehearse(trainer.run, trainer.state)
    data = (
        "kept 6 samples",
        "captions: 6 for 6 samples",
        "shorter sides of the images: 16 to 16 pixels",
    )
    for words in (
        *data,
        "parameters frozen",
        "loss",
        "saved, reloaded and compared",
        "peak",
        "an hour",
        "disk",
    ):
        assert words in caplog.text
    assert not (tmp_path / "out").exists()


def test_a_dry_run_draws_one_row_alone(
    sd_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(
        flags(sd_folder, images, tmp_path / "out", validation_num_steps=[3, 2], dry_run=True)
    )
    drawn: list[tuple[int, ...]] = []
    decode = trainer.run.family.decode
    monkeypatch.setattr(
        trainer.run.family,
        "decode",
        lambda latents: (drawn.append(tuple(latents.shape)), decode(latents))[1],
    )
    at_play = []
    trainer.state.student.unet.conv_in.register_forward_pre_hook(
        lambda layer, args: None if layer.training else at_play.append(len(args[0]))
    )
    layout = Layout.of(trainer.run.publisher.try_drawing())
    assert layout is not None
    assert layout.columns == ["teacher, 2 steps", "3 steps", "2 steps"] and len(layout.rows) == 1
    assert drawn == [(1, 4, 8, 8)] * 2
    assert at_play == [2] * 5  # both seeds at once
