"""The learning rate that a run chooses for its U-Net, and where it says so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lcm.training.learning_rate import automatic_rate
from tests.support.runs import flags, trainer_of


@pytest.mark.parametrize(
    ("width", "full_finetune", "rate"),
    [
        (1280, False, 1e-4),  # SD 1.x, SD 2.x and SDXL: what the public scripts' READMEs pass
        (1280, True, 1e-5),
        (128, False, 1e-3),  # what the tiny world was found to want
        (640, False, 2e-4),
    ],
)
def test_the_rate_falls_with_the_width(width: int, full_finetune: bool, rate: float) -> None:
    assert automatic_rate(width, full_finetune=full_finetune) == rate


def test_a_run_says_the_rate_that_it_chose(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the log, in its settings and in its optimizer."""
    words = flags(sd_folder, images, tmp_path / "out")
    place = words.index("--learning_rate")
    del words[place : place + 2]
    with caplog.at_level(logging.INFO, "lcm"):
        trainer = trainer_of(words)
    run, student = trainer.run, trainer.state.student
    width = max(run.family.unet.config.block_out_channels)
    rate = 1e-4 * 1280 / width
    assert run.config.optimizer.rate == pytest.approx(rate, rel=0.05)
    assert run.facts.settings["learning_rate"] == run.config.optimizer.rate
    assert {group["initial_lr"] for group in student.optimizer.param_groups} == {
        run.config.optimizer.rate
    }
    said = [text for text in caplog.messages if text.startswith("learning_rate:")]
    assert len(said) == 1 and f"{width} channels" in said[0]


def test_a_rate_that_was_given_is_taken(
    sd_folder: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lcm"):
        words = flags(sd_folder, images, tmp_path / "out", learning_rate=3e-4)
        assert trainer_of(words).run.config.optimizer.rate == 3e-4
    assert not [text for text in caplog.messages if text.startswith("learning_rate:")]
