"""A hub on this machine, and a run that is uploaded to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tests.support.hub import TOKEN, FakeHub, serve
from tests.support.runs import flags


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    hub = FakeHub()
    server = serve(hub)
    for name, value in {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "ENDPOINT": hub.address,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def line(sd_folder: Path, images: Path) -> Callable[..., list[str]]:
    """A run of one update into a folder."""
    options: dict[str, Any] = {
        "max_train_steps": 1,
        "validation_prompts": ["a red star"],
        "validation_num_steps": [1, 2],
    }
    return lambda output, **changes: flags(sd_folder, images, output, **{**options, **changes})
