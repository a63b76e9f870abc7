"""Continuous batching: requests join and leave a running batch at every step of the U-Net."""

from __future__ import annotations

from lcm.inference.serving.engine import Engine, Result, serve
from lcm.inference.serving.request import Request

__all__ = ["Engine", "Request", "Result", "serve"]
