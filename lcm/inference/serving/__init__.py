"""Continuous batching: requests join and leave a running batch at every step of the U-Net."""

from __future__ import annotations

from lcm.inference.serving.engine import Engine, QueueFullError
from lcm.inference.serving.request import Request
from lcm.inference.serving.results import Result, serve

__all__ = ["Engine", "QueueFullError", "Request", "Result", "serve"]
