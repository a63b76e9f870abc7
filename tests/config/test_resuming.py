"""Runs with options that go on where they stopped, and averages that are given away."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file

import train_lcm_lora
from lcm.adapter.names import WEIGHTS_NAME
from lcm.outputs.checkpoint import load_checkpoint
from tests.support.options import (
    Arguments,
    Done,
    result,
)
from tests.support.outputs import weights_at
from tests.support.runs import same, trainer_of

# --- resuming -------------------------------------------------------------------------------------


RESUMED = [
    "export_ema",
    "dropout",
    "fine-tuned",
    "prompts lcm",
    "prompts endpoint",
    "full",
    "w_embedding",
]


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    name: str, done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    whole, halved = done(name), tmp_path / "halved"
    shutil.copytree(whole / "checkpoint-1", halved / "checkpoint-1")
    assert train_lcm_lora.main(arguments(name, halved)) == 0
    first, second = (load_checkpoint(output / "checkpoint-3").tensors for output in (whole, halved))
    assert same(first, second)
    assert same(result(whole), result(halved))
    assert not same(first, load_checkpoint(whole / "checkpoint-1").tensors)


# --- export_ema_decay -----------------------------------------------------------------------------


def test_the_average_that_is_given_away_is_that_of_diffusers(
    done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    output = done("export_ema")
    student = trainer_of(arguments("export_ema", tmp_path)).state.student
    names = [
        name.removesuffix(".default.weight")
        for name, _ in student.unet.named_parameters()
        if ".lora_" in name
    ]
    theirs = EMAModel(student.parameters, decay=0.6)
    for step in (1, 2, 3):
        weights = weights_at(output, step)
        theirs.step([torch.nn.Parameter(w) for w in weights])
        average = [a.double() for a in theirs.shadow_params]
        adapter = load_file(output / f"checkpoint-{step}" / WEIGHTS_NAME)
        differs = False
        for name, a, raw in zip(names, average, weights, strict=True):
            module, part = name.rsplit(".", 1)
            matrix = "lora_down" if part == "lora_A" else "lora_up"
            key = f"lora_unet_{module.replace('.', '_')}.{matrix}.weight"
            torch.testing.assert_close(adapter[key].double(), a, rtol=1e-3, atol=1e-6)  # float16
            differs = differs or not torch.allclose(adapter[key].float(), raw, rtol=1e-2, atol=1e-4)
        assert differs or step == 1, step
    assert same(result(output), load_file(output / "checkpoint-3" / WEIGHTS_NAME))
