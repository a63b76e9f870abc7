"""Objectives: one file a method."""

from __future__ import annotations

from lcm.objectives.base import LatentBatch, Objective, Roles
from lcm.objectives.cd import ConsistencyDistillation
from lcm.objectives.config import ObjectiveConfig
from lcm.objectives.ct import ConsistencyTraining
from lcm.objectives.endpoint import Endpoint
from lcm.objectives.flow_map import FlowMap
from lcm.objectives.lcm import LatentConsistency
from lcm.objectives.method import Method, Play, make_recipe
from lcm.objectives.pcm import PhasedConsistency
from lcm.objectives.reflow import Reflow
from lcm.objectives.scm import ContinuousConsistency
from lcm.objectives.stochastic_flow import StochasticFlow
from lcm.objectives.tcd import TrajectoryConsistency
from lcm.objectives.tscd import SegmentedTrajectoryConsistency
from lcm.registry import lookup

OBJECTIVES: dict[str, Method] = {
    "lcm": LatentConsistency(),
    "cd": ConsistencyDistillation(),
    "ct": ConsistencyTraining(),
    "pcm": PhasedConsistency(),
    "tcd": TrajectoryConsistency(),
    "tscd": SegmentedTrajectoryConsistency(),
    "endpoint": Endpoint(),
    "reflow": Reflow(),
    "scm": ContinuousConsistency(),
    "flow_map": FlowMap(),
    "stochastic_flow": StochasticFlow(),
}


def resolve(config: ObjectiveConfig) -> Method:
    """The method that `config` names; its defaults are filled into `config`, where a flag without effect becomes None.

    Raises ValueError for an unknown method, a flag without effect, and flags that make no sense.
    """
    method = lookup(OBJECTIVES, config.objective, "objective")
    config.resolve(method.defaults)
    return method


__all__ = [
    "OBJECTIVES", "LatentBatch", "Method", "Objective", "ObjectiveConfig", "Play", "Roles", "make_recipe", "resolve",
]  # fmt: skip
