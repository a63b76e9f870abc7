"""Teachers with a scheduler of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.worlds import build_sd


def teacher_with(scheduler: Any, folder: Path) -> Path:
    pipe = build_sd()
    pipe.register_modules(scheduler=scheduler)
    pipe.save_pretrained(folder)
    return folder
