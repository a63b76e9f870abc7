"""Style LoRAs in several files, and base models as folders and as single files."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import save_file

from tests.support.hostile import SPY
from tests.support.single_file import BUILDERS, without_weights, write_single_file
from tests.support.styles import write_style
from tests.support.worlds import build_sd, build_sdxl


@pytest.fixture(scope="session")
def styles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One LoRA in several files: of SD all of it, the U-Net's part alone, kohya's layout and other
    numbers; of SDXL all of it.
    """
    folder = tmp_path_factory.mktemp("styles")
    state = write_style(folder / "sd", build_sd())
    save_file(state, folder / "text.safetensors")
    save_file(
        {key: value for key, value in state.items() if key.startswith("unet.")},
        folder / "unet.safetensors",
    )
    save_file(convert_state_dict_to_kohya(dict(state)), folder / "kohya.safetensors")
    save_file({key: 2 * value for key, value in state.items()}, folder / "other.safetensors")
    write_style(folder / "sdxl", build_sdxl())
    return folder


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("a red star\na blue ring\n")
    return path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For every kind of model a folder, the same weights in one file, and the folder without
    weights.
    """
    root = tmp_path_factory.mktemp("world")
    for name, build in BUILDERS.items():
        pipe = build()
        pipe.save_pretrained(root / name)
        write_single_file(pipe, root / f"{name}.safetensors")
        without_weights(shutil.copytree(root / name, root / f"{name}-config"))
    return root


@pytest.fixture
def spies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules on the path that must not be imported, and a pickle that must not be opened."""
    folder = tmp_path / "path"
    (folder / "package").mkdir(parents=True)
    (folder / f"{SPY}.py").write_text("class Component: ...\n")
    (folder / "package" / "__init__.py").write_text("")
    (folder / "package" / "inner.py").write_text("class Component: ...\n")
    monkeypatch.syspath_prepend(folder)
    opened: list[Any] = []
    monkeypatch.setattr(torch, "load", lambda *args, **options: opened.append(args))
    loaded = {SPY, "antigravity", "package", "package.inner", "this"}
    yield
    assert not opened
    assert not loaded & sys.modules.keys()


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    return shutil.copytree(world / "sd", tmp_path / "model")
