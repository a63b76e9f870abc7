"""Runs that train the whole U-Net."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import (
    LCMScheduler,
    UNet2DConditionModel,
)
from diffusers.training_utils import EMAModel

import lcm
import train_lcm_lora
from lcm.adapter.lora import add_lora
from lcm.adapter.names import WEIGHTS_NAME
from lcm.outputs.checkpoint import load_checkpoint
from tests.support.options import (
    Arguments,
    Done,
    picture,
    refused,
    result,
)
from tests.support.outputs import snapshot, weights_at
from tests.support.runs import expect_refusal, same, trainer_of, update
from tests.support.worlds import build_sd, build_sdxl


def test_the_whole_unet_is_a_stock_one_with_the_trained_weights(
    arguments: Arguments, done: Done, tmp_path: Path
) -> None:
    output = done("full")
    assert not (output / WEIGHTS_NAME).exists()
    unet = UNet2DConditionModel.from_pretrained(output, subfolder="unet")
    tensors = load_checkpoint(output / "checkpoint-3").tensors
    settings = yaml.safe_load((output / "config.yaml").read_text())
    teacher = UNet2DConditionModel.from_pretrained(
        settings["pretrained_teacher_model"], subfolder="unet"
    )
    start = [p.detach() for p in teacher.parameters()]
    assert len(start) == len(weights_at(output, 1))
    theirs = EMAModel([torch.nn.Parameter(p) for p in start], decay=0.5)
    for step in (1, 2, 3):
        theirs.step([torch.nn.Parameter(w) for w in weights_at(output, step)])
    for i, parameter in enumerate(unet.parameters()):
        torch.testing.assert_close(parameter, theirs.shadow_params[i], rtol=1e-5, atol=1e-6)
        assert torch.equal(parameter, tensors[f"export_ema.{i}"])
    assert all(not torch.equal(p, first) for p, first in zip(unet.parameters(), start, strict=True))


@pytest.mark.parametrize("name", ["full", "w_embedding"])
def test_the_teacher_stays_what_it_was(name: str, arguments: Arguments, tmp_path: Path) -> None:
    trainer = trainer_of(arguments(name, tmp_path))
    before = {key: value.clone() for key, value in trainer.run.family.unet.state_dict().items()}
    first = [p.detach().clone() for p in trainer.state.student.parameters]
    batches = trainer.run.inputs.batches(range(2))
    update(trainer, batches)
    update(trainer, batches)
    assert same(before, trainer.run.family.unet.state_dict())
    assert any(
        not torch.equal(a, b) for a, b in zip(first, trainer.state.student.parameters, strict=True)
    )


def test_attach_puts_the_unet_into_a_pipeline(done: Done) -> None:
    pipe, output = build_sd(), done("full")
    before = picture(pipe, num_inference_steps=2, guidance_scale=1.0)
    recipe = lcm.attach(pipe, output)
    assert recipe == lcm.read_recipe(output) == lcm.read_recipe(output / "checkpoint-3")
    assert same(pipe.unet.state_dict(), result(output))
    assert isinstance(pipe.scheduler, LCMScheduler)
    assert not np.allclose(picture(pipe, num_inference_steps=2, guidance_scale=1.0), before)


def test_a_whole_unet_has_no_weight_and_replaces_no_adapters(done: Done) -> None:
    pipe = build_sd()
    unet, scheduler = pipe.unet, pipe.scheduler
    with pytest.raises(ValueError, match=r"cannot be attached with weight 0\.5"):
        lcm.attach(pipe, done("full"), 0.5)
    with pytest.raises(ValueError, match="use a base model of the adapter's family"):
        lcm.attach(build_sdxl(), done("full"))
    add_lora(pipe.unet, 4)
    with pytest.raises(ValueError, match="adapters would be lost"):
        lcm.attach(pipe, done("full"))
    assert pipe.unet is unet
    assert pipe.scheduler is scheduler


def test_a_finished_unet_is_never_overwritten(
    done: Done, arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(done("full") / "unet", tmp_path / "unet")
    before = snapshot(tmp_path)
    expect_refusal(capsys, arguments("full", tmp_path), "already holds a run")
    assert snapshot(tmp_path) == before


def test_a_whole_unet_trains_in_float32_and_is_stored_as_its_teacher(
    arguments: Arguments, tmp_path: Path
) -> None:
    assert (
        train_lcm_lora.main(arguments("full", tmp_path, mixed_precision="bf16", max_train_steps=1))
        == 0
    )
    assert {tensor.dtype for tensor in weights_at(tmp_path, 1)} == {torch.float32}
    assert {tensor.dtype for tensor in result(tmp_path).values()} == {torch.bfloat16}


def test_a_whole_sdxl_unet_trains_and_attaches(done: Done) -> None:
    output, pipe = done("full sdxl"), build_sdxl()
    assert lcm.attach(pipe, output).family == "sdxl"
    assert same(pipe.unet.state_dict(), result(output))
    assert not same(build_sdxl().unet.state_dict(), result(output))
    assert np.isfinite(picture(pipe, num_inference_steps=2, guidance_scale=1.0)).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_rank": 8},
        {"lora_alpha": 4.0},
        {"lora_dropout": 0.1},
        {"lora_target_modules": ["to_q"]},
        {"init_adapter": "plain"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_flags_of_adapters_are_refused_for_a_whole_unet(
    changes: dict[str, Any],
    arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(
        capsys,
        arguments("full", tmp_path / "out", **changes),
        f"{next(iter(changes))} has no effect with full_finetune",
    )
