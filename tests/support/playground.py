"""A playground of the tiny world, and what its page sends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lcm.adapter.locate import look_up
from lcm.play.stage import Stage
from lcm.play.studio import Studio
from tests.support.adapters import OF_EVERY_KIND, make_recipe, write_adapter
from tests.support.worlds import build_sd

MESSAGE: dict[str, Any] = {
    "view": "draw",
    "number": 1,
    "prompt": "star",
    "negative": "",
    "seed": 0,
    "steps": 2,
    "guidance": 3.0,
    "strength": 0.6,
    "lead": None,
    "weights": {},
}


def make_stage(*adapters: Path) -> Stage:
    """With these adapters, and none put on."""
    stage = Stage(build_sd(), "some/base")
    for adapter in adapters:
        stage.add(look_up(adapter))
    return stage


def named(folder: Path, name: str, **changes: Any) -> Path:
    """An adapter in a folder of this name, whose recipe has `changes`."""
    (folder / name).mkdir()
    return write_adapter(
        folder / name, build_sd, make_recipe(**changes), scale=0.3, targets=OF_EVERY_KIND
    )


@contextmanager
def drawing(studio: Studio) -> Iterator[Studio]:
    """Inside the block a thread draws."""
    thread = threading.Thread(target=studio.run)
    thread.start()
    try:
        yield studio
    finally:
        studio.close()
        thread.join()
