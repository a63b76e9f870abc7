"""A second network on the same frozen weights: other values for the trained tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lcm.adapter.layers import lowered_kept, trained_layers
from lcm.adapter.lora import swapped


class SecondNetwork:
    """`parameters` stand in the place of a network's trained tensors `live` while it is asked: one
    frozen base, two adapters, and nothing of the second in what is exported.
    """

    def __init__(self, unet: Any, live: list[nn.Parameter], values: list[Tensor]) -> None:
        self.layers, self.live = trained_layers(unet), live
        self.parameters = [nn.Parameter(value) for value in values]

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The network is the second one inside the block, for passes without gradients; what a
        former pass of the first has left for its way back stays.
        """
        values = [parameter.data for parameter in self.parameters]
        with lowered_kept(self.layers), swapped(self.live, values):
            yield

    @contextmanager
    def learning(self) -> Iterator[None]:
        """The network is the second one inside the block, which must hold the ways back, too; the
        gradients that they leave are added to those of `parameters`.
        """
        theirs = [parameter.grad for parameter in self.live]
        for live, mine in zip(self.live, self.parameters, strict=True):
            live.grad = mine.grad
        try:
            with self.swapped_in():
                yield
        finally:
            for live, mine, gradient in zip(self.live, self.parameters, theirs, strict=True):
                mine.grad, live.grad = live.grad, gradient
