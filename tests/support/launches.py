"""Launches without a process of their own."""

from __future__ import annotations

from accelerate.state import AcceleratorState, GradientState


def forget_launch() -> None:
    """What comes next is a launch of its own: accelerate keeps its state for the life of a
    process.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
