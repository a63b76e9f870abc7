"""Runs that are asked to stop, by a real signal at a chosen moment, and go on by the same command
as if nothing had been.
"""

from __future__ import annotations

import importlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train_lcm_lora
from lcm.data.precomputed.store import Store
from tests.support import ROOT
from tests.support.outputs import differences
from tests.support.runs import flags

OPTIONS: dict[str, Any] = {
    "target": "ema",
    "max_train_steps": 5,
    "checkpointing_steps": 2,
    "validation_steps": 3,
    "validation_prompts": ["a red star", "blue"],
    "validation_num_steps": [1],
}

BRIEF: dict[str, Any] = {"train_data_dir": None, "num_ddim_timesteps": 4, "max_train_steps": 1}

Run = Callable[[Path], int]


@pytest.fixture(scope="module")
def run(sd_folder: Path, images: Path) -> Run:
    return lambda output: train_lcm_lora.main(flags(sd_folder, images, output, **OPTIONS))


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("interruption") / "whole"
    assert run(output) == 0
    return output


def signal_at(monkeypatch: pytest.MonkeyPatch, target: str, count: int, signum: int) -> None:
    """The signal comes when the function is called for the `count`th time."""
    module, _, name = target.rpartition(".")
    owner = importlib.import_module(module)
    function, left = getattr(owner, name), [count]

    def called(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signum)
        return function(*args, **options)

    monkeypatch.setattr(owner, name, called)


@pytest.mark.parametrize(
    ("moment", "signum", "saved"),
    [
        (("lcm.training.step.encode", 3), signal.SIGTERM, 3),  # in the third step
        (
            ("lcm.outputs.saving.save_checkpoint", 1),
            signal.SIGINT,
            3,
        ),  # which is finished, as is the step after it
        (
            ("lcm.training.publisher.draw_grid", 2),
            signal.SIGTERM,
            3,
        ),  # the grid of step 3, which has no checkpoint yet
        (("lcm.training.step.encode", 5), signal.SIGTERM, 5),  # in the last step
        (("lcm.training.publisher.write_card", 1), signal.SIGINT, 5),
    ],
)
def test_a_signal_costs_no_step_and_the_same_command_goes_on(
    moment: tuple[str, int],
    signum: signal.Signals,
    saved: int,
    run: Run,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        signal_at(patch, *moment, signum)
        assert run(output) == 128 + signum
    said = capsys.readouterr().err
    checkpoint = output / f"checkpoint-{saved}"
    assert (
        f"stopped by {signum.name}: {checkpoint} is saved; the same command goes on from it"
        in said.splitlines()
    )
    assert (checkpoint / "pytorch_lora_weights.safetensors").is_file()
    assert not (output / "README.md").exists()
    assert run(output) == 0
    extra = f"only in one: checkpoint-{saved}/" if saved == 3 else "nothing"
    assert [name for name in differences(output, whole) if not name.startswith(extra)] == []


def test_trajectories_on_disk_stay(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "prompts").write_text("a red star\na blue ring\n")
    options = {
        "prompts_file": tmp_path / "prompts",
        "trajectories_per_prompt": 50,
        "train_batch_size": 16,
    }
    line = flags(sd_folder, images, tmp_path / "out", **{**OPTIONS, **BRIEF, **options})
    with monkeypatch.context() as patch:
        # 4 batches a shard
        signal_at(patch, "lcm.data.precomputed.trajectories.follow", 6, signal.SIGTERM)
        assert train_lcm_lora.main(line) == 128 + signal.SIGTERM
    assert (
        "stopped by SIGTERM: there was no checkpoint yet; the same command starts again"
        in capsys.readouterr().err
    )
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    (first,) = [path for path in files if path.name != "manifest.json"]
    assert len(Store(first.parent)) == 64
    kept = first.stat().st_mtime_ns
    assert train_lcm_lora.main(line) == 0
    assert first.stat().st_mtime_ns == kept


def test_what_a_killed_run_left_in_a_shared_folder_of_trajectories_is_told_from_that_of_others(
    sd_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts").write_text("a red star\n")
    options = {"prompts_file": tmp_path / "prompts", "trajectory_dir": tmp_path / "shared"}
    line = flags(sd_folder, images, tmp_path / "out", **{**OPTIONS, **BRIEF, **options})
    names: list[str] = []
    monkeypatch.setattr(
        "lcm.data.precomputed.store.recover", lambda folder, patterns: names.extend(patterns)
    )
    assert train_lcm_lora.main([*line, "--dry_run"]) == 0
    assert names == []
    assert train_lcm_lora.main(line) == 0
    monkeypatch.undo()
    (owner,) = re.findall(r"^\*\.([0-9a-f]{16})$", "\n".join(names))
    (made,) = (tmp_path / "shared").rglob("*.safetensors")
    mine, other = (made.with_name(f".{made.name}.{who}.part") for who in (owner, "0" * 16))
    for partial in (mine, other):
        partial.write_bytes(b"half")
    (tmp_path / "out" / "README.md").unlink()
    assert train_lcm_lora.main(line) == 0
    assert (mine.exists(), other.exists()) == (False, True)


def test_a_run_that_is_killed_again_and_again_is_the_same_run() -> None:
    """`python -m tests.soak` with more kills, and with `--processes 2`, is for long nights."""
    words = [sys.executable, "-m", "tests.soak", "--kills", "3", "--seed", "1"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall("kill [1-3]: killed while", done.stdout)) == 3
