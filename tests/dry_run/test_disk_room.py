"""The disk that a run takes is foreseen, a disk without room is refused or warned of, and sizes are
said as people do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import train_lcm_lora
from lcm.cli import main as cli
from lcm.dry_run.rehearse import log
from lcm.dry_run.saving import measure_besides
from lcm.dry_run.step_memory import measure_steps
from lcm.outputs.saving import BESIDES
from lcm.system.disk_space import Need, readable, shortages
from lcm.training.plan import PAGES, duration, guess_output_need, output_need, plan_of
from tests.support.rehearsals import BRIEF, error_line
from tests.support.runs import flags, run, trainer_of

MIB = 2**20


def bytes_in(folder: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


@pytest.mark.parametrize(
    "changes",
    [
        {"export_ema_decay": 0.9, "terms": ["adversarial", "dmd"]},
        {"full_finetune": True, "lora_rank": None},
    ],
    ids=["taught", "whole"],
)
def test_the_disk_of_a_run_is_foreseen(
    sd_folder: Path, images: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    options = {
        "max_train_steps": 5,
        "validation_prompts": ["a", "b"],
        "validation_num_steps": [1, 2],
        **changes,
    }
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", dry_run=True, **options))
    plan = plan_of(trainer.run, 0)
    guess = guess_output_need(trainer.run, plan, trainer.record())
    measure_steps(trainer.run, trainer.state)
    found = measure_besides(trainer.run, trainer.state, log)
    foreseen = output_need(trainer.run, plan, found.checkpoint, found.result, 2 * found.row)
    assert not (tmp_path / "out").exists()
    assert run(sd_folder, images, tmp_path / "out", **options) == 0
    checkpoints = list(tmp_path.glob("out/checkpoint-*"))
    grids = list(tmp_path.glob("out/validation/*.png"))
    assert (
        (plan.checkpoints, plan.together, plan.grids)
        == (len(checkpoints), len(checkpoints), len(grids))
        == (3, 3, 4)
    )
    for checkpoint in checkpoints:
        assert found.checkpoint == pytest.approx(bytes_in(checkpoint), rel=0.01)
    result = [
        *tmp_path.glob("out/validation/*"),
        *tmp_path.glob("out/images/*.png"),
        *tmp_path.glob("out/*.safetensors"),
        *tmp_path.glob("out/unet/*"),
    ]
    written = sum(map(bytes_in, checkpoints)) + sum(path.stat().st_size for path in result)
    assert foreseen.nbytes - PAGES == pytest.approx(written, rel=0.02)
    assert bytes_in(tmp_path / "out") - written < PAGES
    assert (
        foreseen.nbytes
        <= guess.nbytes
        <= foreseen.nbytes + (plan.checkpoints + 1) * (BESIDES + found.result)
    )


def test_a_disk_without_room_is_refused_by_the_rehearsal_and_warned_of_by_the_run(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = flags(
        sd_folder,
        images,
        tmp_path / "out",
        max_train_steps=5,
        checkpointing_steps=1,
        validation_steps=5,
        **BRIEF,
    )
    monkeypatch.setattr("lcm.system.disk_space.free_bytes", lambda folder: int(1.3 * MIB))
    error = error_line(capsys, [*line, "--dry_run"])
    for words in (
        "the disk has 1.3 MiB free",
        "5 checkpoints, 2 grids",
        "--checkpoints_total_limit 2",
        "another --output_dir",
    ):
        assert words in error
    monkeypatch.setattr("lcm.system.disk_space.free_bytes", lambda folder: 4 * MIB)
    assert train_lcm_lora.main(line) == 0
    (warning,) = [text for text in capsys.readouterr().err.splitlines() if "the disk has" in text]
    assert "the disk has 4.0 MiB free" in warning and "--checkpoints_total_limit 2" in warning


def test_what_lies_on_one_disk_shares_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = [Need(tmp_path / "not" / "there", 60, "a", "do x"), Need(tmp_path, 50, "b", "do y")]
    monkeypatch.setattr("lcm.system.disk_space.free_bytes", lambda folder: 100)
    assert [shortages([need]) for need in needs] == [[], []]
    (line,) = shortages(needs)
    assert (
        "100 bytes free" in line
        and "a in" in line
        and "60 bytes" in line
        and line.endswith("do x; do y")
    )
    monkeypatch.setattr("lcm.system.disk_space.free_bytes", lambda folder: 110)
    assert shortages(needs) == []


def test_a_build_of_the_cache_that_has_no_room_warns_once(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the prompts take more, the latents of six images less
    monkeypatch.setattr("lcm.system.disk_space.free_bytes", lambda folder: 20_000)
    assert (
        cli.main(
            [
                "cache",
                "build",
                *flags(
                    sd_folder,
                    images,
                    tmp_path / "out",
                    latent_cache_dir=tmp_path / "cache",
                    validation_prompts=None,
                ),
            ]
        )
        == 0
    )
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "the disk has" in text]
    assert "prompt embeddings" in line and line.endswith("choose another --latent_cache_dir")


def test_sizes_and_times_are_said_as_people_do() -> None:
    assert [readable(n) for n in (0, 999, 1000, 3 * MIB, 999 * MIB, 80 * 1024 * MIB)] == [
        *("0 bytes", "999 bytes", "1.0 KiB", "3.0 MiB", "999 MiB", "80.0 GiB")
    ]
    assert [duration(s) for s in (0.26, 42, 3661, 90000)] == [
        "0.3 s",
        "42 s",
        "1:01:01",
        "1 day, 1:00:00",
    ]
