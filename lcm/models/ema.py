"""Exponential moving averages of trained weights."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

from lcm.adapter.lora import swapped


class WeightEma:
    """Exponential moving average of the trained tensors: the target theta^- of CM and LCM, or what
    is exported.

    Constant decay, no hidden ramp. Of an adapter A and B are averaged on their own; their product
    then is not the average of the products, which is why validation pictures are drawn from the
    averages themselves.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = parameters
        self.averages = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, exponent: float = 1.0) -> None:
        """theta^- <- mu theta^- + (1 - mu) theta with mu = decay^exponent."""
        weight = 1.0 - self.decay**exponent
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], weight)

    def swapped_in(self) -> AbstractContextManager[None]:
        """The averages stand in the network inside the block."""
        return swapped(self.parameters, self.averages)
