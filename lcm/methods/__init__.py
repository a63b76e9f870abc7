"""Objectives: one file a method."""

from __future__ import annotations

from lcm.methods.cd import ConsistencyDistillation
from lcm.methods.config import ObjectiveConfig
from lcm.methods.ct import ConsistencyTraining
from lcm.methods.endpoint import Endpoint
from lcm.methods.flow_map import FlowMap
from lcm.methods.lcm import LatentConsistency
from lcm.methods.method import Method, Play, make_recipe
from lcm.methods.objective import LatentBatch, Objective, Roles
from lcm.methods.pcm import PhasedConsistency
from lcm.methods.reflow import Reflow
from lcm.methods.scm import ContinuousConsistency
from lcm.methods.stochastic_flow import StochasticFlow
from lcm.methods.tcd import TrajectoryConsistency
from lcm.methods.tscd import SegmentedTrajectoryConsistency
from lcm.system.registry import lookup

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
    """The method that `config` names; its defaults are filled into `config`, where a flag without
    effect becomes None.

    Raises ValueError for an unknown method, a flag without effect, and flags that make no sense.
    """
    method = lookup(OBJECTIVES, config.objective, "objective")
    config.resolve(method.defaults)
    return method


__all__ = [
    "OBJECTIVES",
    "LatentBatch",
    "Method",
    "Objective",
    "ObjectiveConfig",
    "Play",
    "Roles",
    "make_recipe",
    "resolve",
]
