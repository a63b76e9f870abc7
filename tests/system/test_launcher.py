"""What a launcher shows of an error of ours."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

import train_lcm_lora
from lcm.system.launcher import OF_ACCELERATE, tell_launcher

MISTAKE = ["--train_data_dir", "photos"]
SAID = "error: --pretrained_teacher_model is missing"


def test_the_table_of_several_processes_ends_with_our_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As torch makes it of what a process has left."""
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    assert train_lcm_lora.main(MISTAKE) == 2
    assert capsys.readouterr().err.startswith(SAID)
    table = str(ChildFailedError("train_lcm_lora.py", {0: ProcessFailure(0, 1, 2, str(path))}))
    *_, line, border = table.splitlines()
    assert line.strip().startswith(f"traceback : {SAID}") and set(border) == {"="}


def test_what_the_table_says_is_one_line_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, secret = tmp_path / "error.json", "hf_" + "abcdefghij" * 4
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    tell_launcher(ValueError(f"one\ntwo \x1b[31m {secret}"))
    message = ProcessFailure(0, 1, 2, str(path)).message["message"]
    assert message.startswith("error: one two ") and message.isprintable()
    assert secret not in message
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "missing" / "error.json"))
    tell_launcher(ValueError("where nothing can be written"))


@pytest.mark.parametrize(
    ("parent", "is_told"),
    [
        ("python /bin/accelerate launch train_lcm_lora.py --dry_run", True),
        ("python -m accelerate.commands.launch --cpu train_lcm_lora.py", True),
        ("python -m accelerate.commands.accelerate_cli launch train_lcm_lora.py -q", True),
        ("python /bin/accelerate launch --quiet train_lcm_lora.py", False),
        ("python /bin/accelerate-launch -q --cpu train_lcm_lora.py", False),
        ("bash", False),
        ("", False),
    ],
)
def test_the_traceback_of_the_launcher_of_one_process_is_announced(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    parent: str,
    is_told: bool,
) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(psutil.Process, "cmdline", lambda process: parent.split())
    assert train_lcm_lora.main(MISTAKE) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith(SAID) and rest == ([OF_ACCELERATE] if is_told else [])


def test_nothing_is_announced_without_a_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("TORCHELASTIC_ERROR_FILE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    assert train_lcm_lora.main(MISTAKE) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
