"""Objectives: one file a method."""

from __future__ import annotations

from lcm.objectives.base import LatentBatch, Method, Objective, ObjectiveConfig, Roles, make_recipe
from lcm.objectives.lcm import LatentConsistency

OBJECTIVES: dict[str, Method] = {"lcm": LatentConsistency()}

__all__ = ["OBJECTIVES", "LatentBatch", "Method", "Objective", "ObjectiveConfig", "Roles", "make_recipe"]
