"""`lcm evaluate` and `lcm generate` end with one exit status for one refused adapter: 1 for what is
wrong with a file, 2 for a mistake in the command.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lcm.adapter.names import WEIGHTS_NAME
from tests.support.drawings import generate
from tests.support.evaluations import evaluate


@pytest.mark.parametrize(
    ("kind", "status"), [("not a number", 1), ("cut", 1), ("pickle", 1), ("no recipe", 2)]
)
def test_a_refused_adapter_has_one_status(
    kind: str, status: int, sd_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    source, file = adapter / WEIGHTS_NAME, tmp_path / "bad.safetensors"
    tensors = load_file(source)
    if kind == "cut":
        file.write_bytes(source.read_bytes()[:-9])
    elif kind == "pickle":
        file = tmp_path / "bad.bin"
        torch.save(tensors, file)
    else:
        if kind == "not a number":
            tensors = {name: each * torch.nan for name, each in tensors.items()}
        save_file(tensors, file)
    words = ("--adapter", file, *(("--scheduler", "LCMScheduler") if status == 1 else ()))
    output = tmp_path / "out"
    brief = ("--steps", 1, "--teacher_steps", 1, "--max_prompts", 2, "--metrics", "contrast")
    assert evaluate(sd_folder, output, *words, *brief) == status
    assert generate(sd_folder, output, *words, "--steps", 1) == status
