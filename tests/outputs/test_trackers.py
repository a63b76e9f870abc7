"""What TensorBoard, Weights & Biases and Trackio are told. The last two are stand-ins that write
down how they are called.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.utils import LoggerType
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lcm.outputs.trackers import run_id
from tests.support.runs import expect_refusal, flags, run

STAND_IN = """
calls = []

class Image:
    def __init__(self, value):
        assert value.mode == "RGB", value  # as the real ones, it takes PIL's pictures
        self.size = value.size

class Run:
    def log(self, values, step):
        if NAME == "trackio":
            assert "step" not in values, "a word that trackio keeps for itself"
        assert all(value is not None for value in values.values())
        calls.append(("log", step, values))
    def finish(self):
        calls.append(("finish",))

class Config:
    def update(self, values, allow_val_change):
        calls.append(("config", values))

config = Config()

def init(project, SIGNATURE):
    calls.append(("init", dict(locals())))
    return Run()
"""
SIGNATURES = {"wandb": "name, id, resume, dir", "trackio": "name, resume"}
SECRETS = {"WANDB_API_KEY": "secret-of-wandb", "HF_TOKEN": "secret-of-the-hub"}


KNOWN = [name for name in SIGNATURES if name in {kind.value for kind in LoggerType}]
"""Trackers that accelerate knows: Trackio is not among them in its older releases."""


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, signature in SIGNATURES.items():
        text = STAND_IN.replace("SIGNATURE", signature).replace("NAME", repr(name))
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    # accelerate looks once, when it is imported
    monkeypatch.setattr("accelerate.tracking._available_trackers", list(LoggerType))


def calls_of(name: str, kind: str) -> list[Any]:
    return [call[1:] for call in sys.modules[name].calls if call[0] == kind]  # type: ignore[attr-defined]


@pytest.mark.usefixtures("stand_ins")
def test_every_tracker_is_told_the_lines_the_pictures_and_the_settings(
    sd_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two sittings, of which the second goes on with the same run."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    brief = {
        "validation_prompts": ["a"],
        "validation_num_steps": [1],
        "checkpointing_steps": 2,
        "tracker_project_name": "few",
    }
    options = {**brief, "report_to": ["tensorboard", *KNOWN]}
    output = tmp_path / "out"
    assert run(sd_folder, images, output, **options, max_train_steps=2) == 0
    assert run(sd_folder, images, output, **options, max_train_steps=4) == 0
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    told = {
        line["step"]: {k: v for k, v in line.items() if v is not None and k != "step"}
        for line in lines
        if "loss" in line
    }
    shown = [line for line in lines if "diversity_1_steps" in line]
    assert [line["step"] for line in shown] == [0, 2, 4]
    assert any(None in line.values() for line in lines)  # two samples cannot be of four quarters
    for name in KNOWN:
        logged = calls_of(name, "log")
        assert {step: values for step, values in logged if "loss" in values} == told
        assert all(settings[0]["learning_rate"] == "0.01" for settings in calls_of(name, "config"))
        first, second = (arguments for (arguments,) in calls_of(name, "init"))
        assert first == second
        assert (first["project"], first["resume"]) == ("few", "allow")
        assert first["name"].startswith("out-")
        assert len(calls_of(name, "finish")) == 2
        assert not any(secret in repr(sys.modules[name].calls) for secret in SECRETS.values())  # type: ignore[attr-defined]
    grids = {step: output / "validation" / f"step-{step:06d}.png" for step in (0, 2, 4)}
    sizes = {step: Image.open(path).size for step, path in grids.items()}
    wandb = {
        step: values["validation"]
        for step, values in calls_of("wandb", "log")
        if "validation" in values
    }
    assert {step: [picture.size for picture in pictures] for step, pictures in wandb.items()} == {
        step: [size] for step, size in sizes.items()
    }
    if "trackio" in KNOWN:
        trackio = {
            step: values["validation"].size
            for step, values in calls_of("trackio", "log")
            if "validation" in values
        }
        assert trackio == sizes
    assert_board_shows(output / "logs" / "few", told, output / "validation")
    written = b"".join(path.read_bytes() for path in output.rglob("*") if path.is_file())
    assert not any(secret.encode() in written for secret in SECRETS.values())


def assert_board_shows(folder: Path, told: dict[int, dict[str, float]], grids: Path) -> None:
    board = EventAccumulator(str(folder), size_guidance={"images": 0})
    board.Reload()
    shown = {
        name: {event.step: event.value for event in board.Scalars(name)}
        for name in board.Tags()["scalars"]
    }
    for step, values in told.items():
        assert {name: shown[name][step] for name in values} == pytest.approx(values, rel=1e-6)
    assert "step" not in shown
    for event in board.Images("validation"):
        (folder / "picture.png").write_bytes(event.encoded_image_string)
        grid = Image.open(grids / f"step-{event.step:06d}.png")
        assert np.array_equal(
            np.asarray(Image.open(folder / "picture.png").convert("RGB")), np.asarray(grid)
        )


def test_a_run_has_another_name_when_it_starts_again_and_its_own_when_it_goes_on(
    tmp_path: Path,
) -> None:
    first = run_id(tmp_path / "logs", 0)
    assert run_id(tmp_path / "logs", 20) == first
    assert run_id(tmp_path / "logs", 0) != first
    assert len(run_id(tmp_path / "other", 20)) == len(first)  # reported for the first time


def test_a_tracker_that_accelerate_does_not_know_is_an_error_at_the_start(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    older = StrEnum("LoggerType", {"TENSORBOARD": "tensorboard", "WANDB": "wandb"})
    monkeypatch.setattr("lcm.outputs.trackers.LoggerType", older)
    line = flags(sd_folder, images, tmp_path / "out", report_to=["trackio"], max_train_steps=1)
    expect_refusal(capsys, line, "does not know trackio; pip install --upgrade accelerate")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("others", [[], ["tensorboard"]])
def test_a_tracker_that_is_not_installed_is_an_error_at_the_start(
    name: str,
    others: list[str],
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = flags(sd_folder, images, tmp_path / "out", report_to=[*others, name], max_train_steps=1)
    expect_refusal(capsys, line, f"{name} is not installed; pip install {name}")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("stand_ins")
def test_a_tracker_that_does_not_start_is_one_line(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import wandb

    def nobody(**_arguments: Any) -> None:
        raise RuntimeError("api_key not configured")

    monkeypatch.setattr(wandb, "init", nobody)
    line = flags(sd_folder, images, tmp_path / "out", report_to="wandb")
    expect_refusal(
        capsys, line, "report_to: wandb did not start (api_key not configured); log in to it"
    )
