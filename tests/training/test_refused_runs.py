"""Runs that are refused, or stopped before they do harm, are one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from lcm.outputs.checkpoint import load_checkpoint
from lcm.training.step import train_step
from tests.support.outputs import snapshot
from tests.support.runs import expect_refusal, flags, run, trainer_of, update
from tests.support.worlds import build_sd


def test_a_weight_that_forgets_pure_noise_is_refused_once_the_teacher_is_known(
    sd_v_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expect_refusal(
        capsys,
        flags(sd_v_folder, images, tmp_path / "out", weighting="min_snr"),
        "min_snr is 0",
        "uniform or velocity",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "config.yaml",
        "metrics.jsonl",
        "data_report.json",
        "data_report.png",
        "report.html",
    ],
)
def test_files_of_something_else_are_not_overwritten(
    sd_folder: Path, images: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    expect_refusal(capsys, flags(sd_folder, images, tmp_path), f"holds a {name} of something else")
    assert snapshot(tmp_path) == {name: b"mine"}


def test_an_adapter_that_fails_its_check_costs_no_state(
    sd_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(flags(sd_folder, images, tmp_path, target="online"))
    update(trainer, trainer.run.inputs.batches(range(1)))
    trainer.state.student.parameters[0].data.fill_(1e6)  # beyond float16
    with pytest.raises(ValueError, match="not finite"):
        trainer.save()
    assert load_checkpoint(tmp_path / "checkpoint-1").facts["step"] == 1


def test_the_launchers_precision_must_be_the_runs(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    expect_refusal(capsys, flags(sd_folder, images, tmp_path), "pass --mixed_precision bf16")


@pytest.mark.parametrize(("launched", "flag"), [("4", None), ("4", 2), ("1", 2)])
def test_the_launchers_accumulation_must_be_the_runs(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    launched: str,
    flag: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Accelerate would take its own number, while the loop counts with the flag."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", launched)
    assert Accelerator(gradient_accumulation_steps=flag or 1).gradient_accumulation_steps == int(
        launched
    )
    line = flags(sd_folder, images, tmp_path / "out", gradient_accumulation_steps=flag)
    expect_refusal(capsys, line, f"pass --gradient_accumulation_steps {launched}")
    assert not (tmp_path / "out").exists()
    same = flags(sd_folder, images, tmp_path / "out", gradient_accumulation_steps=launched)
    assert trainer_of(same).run.machine.accelerator.gradient_accumulation_steps == int(launched)


@pytest.mark.parametrize(
    ("variable", "name"),
    [("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")],
)
def test_launches_that_split_the_model_are_refused(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    variable: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")
    expect_refusal(
        capsys, flags(sd_folder, images, tmp_path / "out"), name, "accelerate launch --multi_gpu"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("occupied", ["file", "below a file"])
def test_an_output_folder_that_cannot_be_written_is_named(
    sd_folder: Path, images: Path, tmp_path: Path, occupied: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    output = tmp_path / "file" if occupied == "file" else tmp_path / "file" / "out"
    expect_refusal(
        capsys, flags(sd_folder, images, output), "file is no folder", "choose another folder"
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_a_loss_that_is_not_finite_stops_before_the_update(
    sd_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(sd_folder, images, tmp_path / "out", max_train_steps=2) == 0
    before = snapshot(tmp_path / "out")
    pipe = build_sd()
    teacher = tmp_path / "teacher"
    pipe.save_pretrained(teacher)
    trainer = trainer_of(
        flags(teacher, images, tmp_path / "broken", max_train_steps=4, checkpointing_steps=1)
    )
    weights = [p.detach().clone() for p in trainer.state.student.parameters]
    batches = trainer.run.inputs.batches(range(2))
    update(trainer, batches)
    trainer.save()
    updated = [p.detach().clone() for p in trainer.state.student.parameters]
    assert any(not torch.equal(a, b) for a, b in zip(weights, updated, strict=True))
    with torch.no_grad():
        trainer.run.family.unet.conv_in.weight.fill_(float("inf"))
    with pytest.raises(
        FloatingPointError,
        match=r"step 2: the loss .* is not finite.*--learning_rate 0\.01.*\d\.png.*checkpoint-1",
    ) as caught:
        update(trainer, batches)
    assert "The update was not made" in str(caught.value)
    first = dataclasses.replace(trainer.state, step=0)
    with pytest.raises(FloatingPointError, match=r"step 1: .*before any update.*\d\.png") as blamed:
        train_step(trainer.run, first, trainer.run.inputs.batches(range(1)))
    assert "learning_rate" not in str(blamed.value)
    assert all(
        torch.equal(a, b) for a, b in zip(updated, trainer.state.student.parameters, strict=True)
    )
    assert (tmp_path / "broken" / "checkpoint-1" / "state.json").is_file()
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"train_data_dir": "nowhere"}, ["nowhere is not a folder"]),
        (
            {"pretrained_teacher_model": "./nowhere"},
            ["is not a folder; pass a diffusers pipeline folder, a .safetensors file"],
        ),
        ({"lora_rank": 0}, ["lora_rank must be positive"]),
        ({"lora_alpha": -1}, ["lora_alpha must be positive"]),
        ({"resolution": 18}, ["resolution must be a multiple of 4"]),
        (
            {"lora_target_modules": ["to_x"]},
            ["no linear or conv layer of the U-Net is named 'to_x'"],
        ),
        ({"learning_rate": "fast"}, ["learning_rate must be a number; got 'fast'"]),
    ],
)
def test_bad_flags_are_one_line_and_leave_nothing_behind(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    messages: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = flags(sd_folder, images, tmp_path / "new" / "out", **changes)
    expect_refusal(capsys, arguments, *messages)
    assert list(tmp_path.iterdir()) == []
