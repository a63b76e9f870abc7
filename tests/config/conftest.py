"""Runs with every option of training, each made once, when first asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import train_lcm_lora
from tests.support.options import (
    PROMPTS,
    RUNS,
    Arguments,
    Done,
)
from tests.support.runs import flags


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("options")
    (path / "prompts").write_text("\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture(scope="session")
def arguments(sd_folder: Path, sdxl_folder: Path, images: Path, folder: Path) -> Arguments:
    """The command line of a run in RUNS, with changes, into a folder."""

    def line(name: str, output: Path, **changes: Any) -> list[str]:
        values = {
            "lora_rank": 4,
            "max_train_steps": 3,
            "checkpointing_steps": 1,
            "validation_steps": 100,
            "validation_prompts": PROMPTS[:2],
            "validation_num_steps": [2, 4],
            **RUNS[name],
            **changes,
        }
        for path in ("init_adapter", "prompts_file"):
            if values.get(path) is not None:
                values[path] = folder / values[path]
        return flags(sdxl_folder if "sdxl" in name else sd_folder, images, output, **values)

    return line


@pytest.fixture(scope="session")
def done(arguments: Arguments, folder: Path) -> Done:
    """The finished output folder of a run, made when first asked for."""

    def output(name: str) -> Path:
        if not (folder / name / "README.md").exists():
            first = RUNS[name].get("init_adapter")
            if first is not None:
                output(first)
            assert train_lcm_lora.main(arguments(name, folder / name)) == 0
        return folder / name

    return output
