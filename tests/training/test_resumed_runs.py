"""Runs resume bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lcm.adapter.files import read_header
from lcm.outputs.checkpoint import load_checkpoint
from tests.support.outputs import lines_but_for_the_machine
from tests.support.runs import run


@pytest.mark.parametrize("target", ["online", "ema"])
def test_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    sd_folder: Path, images: Path, tmp_path: Path, target: str
) -> None:
    options = {
        "target": target,
        "lr_scheduler": "cosine",
        "guidance_scale_min": 2.0,
        "guidance_scale_max": 9.0,
        "max_train_steps": 5,
    }
    assert run(sd_folder, images, tmp_path / "whole", **options) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "halved")
    for path in (tmp_path / "halved").iterdir():
        # as if killed after step 3, with lines already logged
        if path.name not in (
            "checkpoint-2",
            "metrics.jsonl",
        ):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run(sd_folder, images, tmp_path / "halved", **options) == 0
    whole, halved = (
        load_checkpoint(tmp_path / name / "checkpoint-5") for name in ("whole", "halved")
    )
    assert whole.tensors.keys() == halved.tensors.keys()
    assert all(torch.equal(whole.tensors[key], halved.tensors[key]) for key in whole.tensors)
    files = [tmp_path / name / "pytorch_lora_weights.safetensors" for name in ("whole", "halved")]
    assert read_header(files[0]) == read_header(files[1])
    first, second = map(load_file, files)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert lines_but_for_the_machine(tmp_path / "whole") == lines_but_for_the_machine(
        tmp_path / "halved"
    )


def test_a_run_can_be_lengthened(sd_folder: Path, images: Path, tmp_path: Path) -> None:
    assert run(sd_folder, images, tmp_path / "at once", max_train_steps=4) == 0
    assert run(sd_folder, images, tmp_path / "in two", max_train_steps=2) == 0
    assert run(sd_folder, images, tmp_path / "in two", max_train_steps=4) == 0
    first, second = (
        load_file(tmp_path / name / "pytorch_lora_weights.safetensors")
        for name in ("at once", "in two")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_checkpointing_activations_may_begin_on_resuming_and_changes_no_bit(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    options = {"max_train_steps": 4, "target": "ema", "lora_dropout": 0.5}
    assert run(sd_folder, images, tmp_path / "whole", **options) == 0
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "halved" / "checkpoint-2")
    changes = {**options, "gradient_checkpointing": True}
    assert run(sd_folder, images, tmp_path / "halved", **changes) == 0
    whole, halved = (
        load_checkpoint(tmp_path / name / "checkpoint-4").tensors for name in ("whole", "halved")
    )
    assert whole.keys() == halved.keys()
    assert all(torch.equal(whole[key], halved[key]) for key in whole)


def test_only_the_newest_checkpoints_are_kept(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    assert run(sd_folder, images, tmp_path, checkpointing_steps=1, checkpoints_total_limit=2) == 0
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-3",
        "checkpoint-4",
    ]
