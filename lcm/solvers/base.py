"""The contract of a solver."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lcm.schedule import NoiseSchedule, Prediction

Predict = Callable[[Tensor, Tensor], Prediction]
"""(x_t [B, C, H, W], t [B] int64 in [0, T)) -> Prediction. May be called several times a step."""

Solver = Callable[[Predict, NoiseSchedule, Tensor, Tensor, Tensor], Tensor]
"""(predict, schedule, x_t, t, s) -> x_s, float32: follows dx/dt of `predict` from t down to s, both [B] int64, s <= t.

`s` may be CLEAN, where no network can be asked. At s = t the result is x_t. Samples of a batch do not influence each other.
"""
