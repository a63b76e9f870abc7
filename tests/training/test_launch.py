"""Real launches: accelerate, two processes, a killed process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from lcm.data.precomputed.store import Store
from tests.support import ROOT
from tests.support.outputs import losses
from tests.support.runs import ENVIRONMENT, PIPES, flags, fork, run

LAUNCH = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
SCRIPT = str(ROOT / "train_lcm_lora.py")


CPUS = ("--config_file", str(ROOT / "examples" / "accelerate" / "two_processes_without_gpus.yaml"))


def command(
    processes: int,
    teacher: Path,
    images: Path,
    output: Path,
    changes: dict[str, Any],
    options: tuple[str, ...] = (),
) -> list[str]:
    several = CPUS if processes > 1 else ()
    number = ["--num_processes", str(processes), "--main_process_port", "0"]
    return [
        *LAUNCH,
        *several,
        *options,
        *number,
        SCRIPT,
        *flags(teacher, images, output, **changes),
    ]


def launch(
    processes: int, *folders: Path, options: tuple[str, ...] = (), **changes: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(processes, *folders, changes, options), **PIPES, timeout=300, check=False
    )


def test_two_processes_make_the_trajectories_that_are_missing(
    sd_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts").write_text("a red star\na blue ring\n")
    options: dict[str, Any] = {
        **{
            "train_data_dir": None,
            "prompts_file": tmp_path / "prompts",
            "trajectory_dir": tmp_path / "kept",
        },
        **{
            "trajectories_per_prompt": 100,
            "objective": "rollout",  # the student goes through several passes of one backward
            "rollout_steps": [1, 2],
            "num_ddim_timesteps": 4,
            "validation_num_steps": [1],
        },
        **{"max_train_steps": 1, "train_batch_size": 8},
    }
    assert run(sd_folder, images, tmp_path / "one", **options) == 0
    assert "0 found, 200 to make" in capsys.readouterr().err
    (folder,) = (tmp_path / "kept").iterdir()
    made = Store(folder)
    rows = {key: made[key] for key in map(str, range(200))}
    assert len(made.files) == 4
    for place in (0, 128):
        made.files[made.places[str(place)][0]].unlink()
    two = fork(2, sd_folder, images, tmp_path / "two", **options)
    assert two.returncode == 0, two.stderr
    assert "72 found, 128 to make by 2 processes" in two.stderr
    again = Store(folder)
    assert len(again.files) == 4
    assert all(torch.equal(again[key]["trajectories"], rows[key]["trajectories"]) for key in rows)


def test_one_of_two_processes_is_asked_to_stop_and_both_go_on(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    """SIGTERM for the second process and its DataLoader workers alone; both save the same step and
    leave. That what is resumed is the whole run, bit for bit, is for test_exactness.
    """
    changes = {
        "gradient_accumulation_steps": 2,
        "dataloader_num_workers": 1,
        "target": "ema",
        "lr_scheduler": "cosine",
    }
    brief = {
        "validation_steps": 100,
        "validation_prompts": ["a", "b"],
        "validation_num_steps": [1],
        "train_batch_size": 1,
    }
    options: dict[str, Any] = {
        **changes,
        **brief,
        "max_train_steps": 12,
        "checkpointing_steps": 100,
    }
    output = tmp_path / "stopped"
    with subprocess.Popen(command(2, sd_folder, images, output, options), **PIPES) as launcher:
        deadline = time.monotonic() + 240
        while not (output / "metrics.jsonl").exists() or len(losses(output)) < 3:
            assert launcher.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        second = next(
            p
            for p in psutil.Process(launcher.pid).children(recursive=True)
            if p.environ().get("RANK") == "1"
        )
        os.killpg(second.pid, signal.SIGTERM)  # torchrun's processes lead groups of their own
        _, said = launcher.communicate(timeout=240)
    assert launcher.returncode != 0
    (folder,) = output.glob("checkpoint-*")
    step = int(folder.name.split("-")[1])
    assert 3 <= step < 12
    assert len(losses(output)) == step
    assert f"stopped by SIGTERM: {folder} is saved; the same command goes on from it" in said
    assert "Error" not in said.split("stopped by SIGTERM")[0]
    resumed = fork(2, sd_folder, images, output, **options)
    assert resumed.returncode == 0, resumed.stderr
    assert len(losses(output)) == 12


def test_fsdp_is_refused_as_accelerate_launches_it(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    result = launch(1, sd_folder, images, tmp_path / "out", options=("--use_fsdp",))
    assert result.returncode != 0
    assert "error: accelerate was told to use FSDP" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_error_is_one_line_without_a_traceback(sd_folder: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, SCRIPT, *flags(sd_folder, tmp_path / "nowhere", tmp_path / "out")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("error: train_data_dir:")
