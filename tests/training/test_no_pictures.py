"""A run that is told to draw nothing, and what is made once and not twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import lcm.training.publisher
import lcm.training.result
from lcm.adapter.names import WEIGHTS_NAME
from lcm.outputs.finished import flaw, flaw_of_result
from lcm.publish.hub import public_files
from tests.support.runs import flags, run, trainer_of

NONE = {"validation_prompts": "none", "max_train_steps": 2, "validation_steps": 1}


@pytest.fixture(scope="module")
def undrawn(sd_folder: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without pictures, in which nothing could draw; `proofs` has the files it reloaded."""
    output = tmp_path_factory.mktemp("run") / "out"
    verify, proofs = lcm.training.result.verify_export, []

    def counted(unet: Any, path: Path, pipeline_class: Any) -> None:
        proofs.append(path.parent.name)
        verify(unet, path, pipeline_class)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lcm.training.publisher, "draw_grid", None)
        patch.setattr(lcm.training.result, "verify_export", counted)
        assert run(sd_folder, images, output, checkpointing_steps=1, **NONE) == 0
    output.with_name("proofs").write_text(json.dumps(proofs))
    return output


def test_nothing_is_drawn_and_the_result_is_whole(undrawn: Path) -> None:
    assert [path for path in undrawn.rglob("*.png") if path.name != "data_report.png"] == []
    assert flaw(undrawn, 2) is None
    card, page = (undrawn / "README.md").read_text(), (undrawn / "report.html").read_text()
    for words in ("grid.png", "## The picture", "picture above", "this card, the picture"):
        assert words not in card + page
    assert "\n\n\n" not in card
    assert "This run draws none." in page
    assert [path.name for path in public_files(undrawn, WEIGHTS_NAME)] == [
        WEIGHTS_NAME,
        "comfyui_workflow.json",
    ]


def test_the_same_command_finds_it_finished(
    undrawn: Path, sd_folder: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(sd_folder, images, undrawn, checkpointing_steps=1, **NONE) == 0
    assert "is finished" in capsys.readouterr().err


def test_a_picture_that_a_run_with_pictures_has_lost_is_missed(
    undrawn: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(undrawn, tmp_path / "out")
    text = (copy / "config.yaml").read_text()
    for prompts in ("validation_prompts: []\n", "validation_prompts:\n- none\n- and more\n"):
        (copy / "config.yaml").write_text(text.replace("validation_prompts:\n- none\n", prompts))
        assert flaw_of_result(copy) == "images/grid.png is missing"
    (copy / "config.yaml").unlink()
    assert flaw_of_result(copy) == "images/grid.png is missing"


def test_every_checkpoint_is_proven_and_the_result_with_the_last(undrawn: Path) -> None:
    proofs = json.loads(undrawn.with_name("proofs").read_text())
    assert proofs == ["checkpoint-1", "checkpoint-2"]
    one, other = undrawn / WEIGHTS_NAME, undrawn / "checkpoint-2" / WEIGHTS_NAME
    assert one.read_bytes() == other.read_bytes()


def test_what_is_not_the_same_bytes_is_proven_again(
    sd_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", target="online"))
    result, proven = trainer.state.student.result, []
    monkeypatch.setattr(
        lcm.training.result, "verify_export", lambda _, path, kind: proven.append(path)
    )
    for value in (0.0, 0.0, 1.0, 0.0):
        result.parameters[0].data.fill_(value)
        trainer.run.publisher.export(tmp_path / WEIGHTS_NAME, 1)
    assert len(proven) == 2
