"""Sampling with an adapter: read its recipe, attach it to a stock pipeline, set the scheduler it
was trained for, take it off again.
"""

from __future__ import annotations

from lcm.adapter.locate import find_recipe, locate, read_recipe
from lcm.adapter.recipe import family_name
from lcm.inference.attach import attach, detach
from lcm.inference.schedulers import SCHEDULERS, fitting_scheduler, make_scheduler
from lcm.inference.state import current_recipe

__all__ = [
    "SCHEDULERS",
    "attach",
    "current_recipe",
    "detach",
    "family_name",
    "find_recipe",
    "fitting_scheduler",
    "locate",
    "make_scheduler",
    "read_recipe",
]
