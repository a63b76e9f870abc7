"""Exponential moving averages of trained weights."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

from lcm.adapter.lora import swapped


class WeightEma:
    """Exponential moving average of the trained tensors: the target theta^- of CM and LCM, or what
    is exported.

    Its decay rises to `decay` over the first updates, as that of diffusers' `EMAModel`, so that it
    forgets about the same share of a run at every length of it: while the weights move fast it
    follows them, later it is smooth. Of an adapter A and B are averaged on their own; their product
    then is not the average of the products, which is why validation pictures are drawn from the
    averages themselves.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.stands_still = False
        self.parameters = parameters
        self.averages = [p.detach().clone() for p in parameters]

    def decay_at(self, update: int, exponent: float = 1.0) -> float:
        """The decay of update number `update`, from 1 on: after n others, the smaller one of
        decay^exponent and (1 + n) / (10 + n); nothing is kept of the first weights.
        """
        others = update - 1
        return min(self.decay**exponent, (1 + others) / (10 + others)) if others > 0 else 0.0

    @torch.no_grad()
    def update(self, update: int, exponent: float = 1.0) -> None:
        """theta^- <- mu theta^- + (1 - mu) theta, after update number `update`; mu is its decay."""
        if not self.stands_still:
            weight = 1.0 - self.decay_at(update, exponent)
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], weight)

    def swapped_in(self) -> AbstractContextManager[None]:
        """The averages stand in the network inside the block."""
        return swapped(self.parameters, self.averages)
