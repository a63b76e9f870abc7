"""What is said where another process of a run is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

import train_lcm_lora
from lcm.system.processes import lost_process
from tests.support.configs import BASE
from tests.support.runs import words

GLOO = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer "
    "[127.0.0.1]:29887. This is typically caused by a remote worker crashing. GLHF!"
)
NCCL = (
    "NCCL error in: /pytorch/ProcessGroupNCCL.cpp:3690, remote process exited or there was a "
    "network error, NCCL version 2.21.5\nncclRemoteError: A call failed"
)


@pytest.mark.parametrize("text", [GLOO, NCCL, "Socket Timeout\nBroken pipe"])
def test_a_partner_that_is_gone_is_one_line(text: str) -> None:
    error = lost_process(RuntimeError(text), "out/checkpoint-4 is saved")
    assert error is not None and error.status == 1
    assert "another process of this run has ended" in str(error)
    assert "out/checkpoint-4 is saved" in str(error)
    assert "\n" not in str(error) and "GLHF" not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
)
def test_other_errors_are_none_of_that(error: Exception) -> None:
    assert lost_process(error, "") is None


def test_a_run_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(*_args: object) -> None:
        raise RuntimeError(GLOO)

    monkeypatch.setattr(train_lcm_lora, "train", lose)
    assert train_lcm_lora.main(words({**BASE, "output_dir": tmp_path / "Out"})) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: another process of this run has ended")
    assert "Connection closed by peer [127.0.0.1]:29887" in line
    assert "the same command starts again" in line
