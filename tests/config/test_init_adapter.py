"""Runs that start from an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lcm
import train_lcm_lora
from lcm.adapter.names import WEIGHTS_NAME
from tests.support.options import (
    Arguments,
    Done,
    refused,
    result,
)
from tests.support.outputs import weights_at
from tests.support.runs import same, trainer_of


def test_fine_tuning_starts_from_the_adapter_and_keeps_its_guidance(
    done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    first, output = done("plain"), tmp_path / "out"
    assert (
        train_lcm_lora.main(arguments("fine-tuned", output, max_train_steps=1, learning_rate=1e-12))
        == 0
    )
    assert same(result(output), result(first))
    assert any(tensor.abs().max() > 0 for key, tensor in result(first).items() if "lora_up" in key)
    recipe = lcm.read_recipe(output)
    assert (recipe.objective, recipe.trained_guidance_scale) == ("ct", [5.5, 5.5])
    assert lcm.read_recipe(first).trained_guidance_scale == [5.5, 5.5]
    assert not same(result(done("fine-tuned")), result(first))


def test_a_method_with_a_teacher_brings_its_own_guidance(
    done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    adapter = done("plain") / "checkpoint-2" / WEIGHTS_NAME
    trainer = trainer_of(
        arguments("plain", tmp_path / "out", init_adapter=adapter, guidance_scale=3.0)
    )
    assert trainer.run.publisher.recipe.trained_guidance_scale == [3.0, 3.0]
    assert all(
        torch.equal(a.half(), b.half())
        for a, b in zip(trainer.state.student.parameters, weights_at(done("plain"), 2), strict=True)
    )


def test_training_from_images_alone_has_no_guidance(arguments: Arguments, tmp_path: Path) -> None:
    trainer = trainer_of(arguments("fine-tuned", tmp_path / "out", init_adapter=None))
    assert trainer.run.publisher.recipe.trained_guidance_scale == [1.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"lora_rank": 2}, ["has rank 4 and alpha 2", "--lora_rank 4 --lora_alpha 2"]),
        ({"lora_alpha": None}, ["has rank 4 and alpha 2", "--lora_rank 4 --lora_alpha 2"]),
        ({"lora_target_modules": ["to_q", "to_k"]}, ["pass its --lora_target_modules"]),
        ({"pretrained_teacher_model": "sdxl"}, ["was made for a sd model", "the teacher is sdxl"]),
        ({"pretrained_teacher_model": "sd_v"}, ["that predicts epsilon", "predicts v_prediction"]),
        ({"init_adapter": "nowhere"}, ["nowhere"]),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    changes: dict[str, Any],
    messages: list[str],
    done: Done,
    arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    done("plain")
    if "pretrained_teacher_model" in changes:
        changes = {
            "pretrained_teacher_model": request.getfixturevalue(
                f"{changes['pretrained_teacher_model']}_folder"
            )
        }
    refused(capsys, arguments("fine-tuned", tmp_path / "out", **changes), *messages)


@pytest.mark.parametrize("name", ["prompts lcm", "prompts endpoint"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lora_target_modules": ["to_q", "to_x"]},
            "no linear or conv layer of the U-Net is named 'to_x'",
        ),
        ({"init_adapter": "nowhere"}, "nowhere"),
        ({"init_adapter": "plain"}, "pass --lora_rank 4 --lora_alpha 2"),
        (
            {"init_adapter": "plain", "lora_alpha": 2.0, "lora_target_modules": ["to_q"]},
            "pass its --lora_target_modules",
        ),
        ({"init_adapter": "prompts"}, "prompts is no safetensors file"),
    ],
    ids=str,
)
def test_an_adapter_is_checked_before_hours_of_trajectories(
    name: str,
    changes: dict[str, Any],
    message: str,
    done: Done,
    arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done("plain")
    refused(
        capsys,
        arguments(name, tmp_path / "out", trajectory_dir=tmp_path / "kept", **changes),
        message,
    )
    assert not (tmp_path / "kept").exists()


def test_trajectories_are_those_of_the_teacher_whatever_the_run_starts_from(
    done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    kept = {"trajectory_dir": tmp_path / "kept", "lora_alpha": 2.0}
    first, second = (
        trainer_of(
            arguments("prompts endpoint", tmp_path / "out", **kept, init_adapter=adapter)
        ).run.inputs.trajectories[0]
        for adapter in (None, done("plain"))
    )
    assert first is not None
    assert second is not None
    assert first.store.folder == second.store.folder


def test_an_adapter_of_another_trainer_may_be_a_start(
    done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    save_file(result(done("plain")), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    trainer = trainer_of(
        arguments("fine-tuned", tmp_path / "out", init_adapter=tmp_path / "theirs.safetensors")
    )
    assert all(
        torch.equal(a.half(), b.half())
        for a, b in zip(trainer.state.student.parameters, weights_at(done("plain"), 3), strict=True)
    )


def test_an_adapter_of_another_trainer_for_another_model_is_refused(
    done: Done,
    arguments: Arguments,
    sdxl_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_file(result(done("plain")), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    changes = {
        "init_adapter": tmp_path / "theirs.safetensors",
        "pretrained_teacher_model": sdxl_folder,
    }
    refused(
        capsys,
        arguments("fine-tuned", tmp_path / "out", **changes),
        "init_adapter",
        "theirs.safetensors",
    )
