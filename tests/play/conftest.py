"""Adapters of the tiny world that tests of the playground share, and nobody writes to."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from lcm.adapter.names import WEIGHTS_NAME
from tests.support.adapters import adapted, public_sdxl_script
from tests.support.hostile import with_header
from tests.support.playground import named
from tests.support.worlds import build_unet


@pytest.fixture(scope="session")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few-step adapter that leaves guidance to the pipeline, as `--preserve_cfg` makes one."""
    return named(tmp_path_factory.mktemp("guided"), "guided", guidance_scale=3.0)


@pytest.fixture(scope="session")
def style(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file without a recipe."""
    state = load_file(adapter / WEIGHTS_NAME)
    return with_header(tmp_path_factory.mktemp("style") / "ink.safetensors", state, {})


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the public SDXL script makes of an adapter: stock diffusers leaves all its attention
    out.
    """
    folder = tmp_path_factory.mktemp("broken")
    public_sdxl_script(adapted(build_unet()), folder)
    return folder / WEIGHTS_NAME
