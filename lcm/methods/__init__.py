"""Distillation methods: one file each, and one line in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lcm.system.registry import Table

if TYPE_CHECKING:
    from lcm.methods.method import Method

METHODS: Table[Method[Any]] = Table(
    "objective",
    {
        "lcm": "lcm.methods.lcm:METHOD",
        "cd": "lcm.methods.cd:METHOD",
        "ct": "lcm.methods.ct:METHOD",
        "pcm": "lcm.methods.pcm:METHOD",
        "tcd": "lcm.methods.tcd:METHOD",
        "tscd": "lcm.methods.tscd:METHOD",
        "endpoint": "lcm.methods.endpoint:METHOD",
        "reflow": "lcm.methods.reflow:METHOD",
        "rollout": "lcm.methods.rollout:METHOD",
        "scm": "lcm.methods.scm:METHOD",
        "phased_scm": "lcm.methods.phased_scm:METHOD",
        "flow_map": "lcm.methods.flow_map:METHOD",
        "dmd": "lcm.methods.dmd:METHOD",
        "hyper": "lcm.methods.hyper:METHOD",
        "stochastic_flow": "lcm.methods.stochastic_flow:METHOD",
    },
)
"""Every method by the name that `--objective` has for it; `METHODS.add` takes those of others."""
