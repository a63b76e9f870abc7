"""Playing an adapter: read its recipe, attach it to a stock pipeline, set the scheduler it was trained for, take it off again."""

from __future__ import annotations

from lcm.playback.attaching import attach, detach
from lcm.playback.compatibility import SCHEDULERS, check_compatible, make_scheduler
from lcm.playback.locating import find_recipe, locate, read_recipe
from lcm.playback.state import current_recipe
from lcm.recipe import family_name

__all__ = [
    "SCHEDULERS",
    "attach",
    "check_compatible",
    "current_recipe",
    "detach",
    "family_name",
    "find_recipe",
    "locate",
    "make_scheduler",
    "read_recipe",
]
