"""What a term is: something beside the distance of a method, perhaps with a critic that learns
against the student.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from lcm.diffusion.schedule import NoiseSchedule
from lcm.methods.context import Draws, Landed, Numbers

if TYPE_CHECKING:
    from lcm.methods.settings import Settings

Reward = Callable[[Tensor, Sequence[str]], Tensor]
"""(pictures [n, 3, H, W] float32 in [0, 1], their prompts) -> [n], more is better;
differentiable.
"""


class Critic(Protocol):
    """A network that learns against the student, from where it landed.

    `parameters` are its own; where it `is_second`, the second network learns by it.
    """

    @property
    def name(self) -> str: ...

    @property
    def numbers(self) -> Numbers: ...

    @property
    def parameters(self) -> list[nn.Parameter]: ...

    @property
    def is_second(self) -> bool: ...

    def __call__(self, landed: Landed, draws: Draws) -> Tensor:
        """Its loss for every sample, [B] float32, of landing points without gradients."""


class Term(Protocol):
    """Added to the weighted distance, `weight` times, from the share `start` of the run on. Where
    times are weighted below 1, it is so, too: a gradient to the picture reaches the output of a
    network that predicts epsilon sigma_t / alpha_t fold, whatever it comes from.

    `numbers` are the random numbers that an evaluation asks of every sample.
    """

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def start(self) -> float: ...

    @property
    def numbers(self) -> Numbers: ...

    @property
    def critic(self) -> Critic | None: ...

    def __call__(self, landed: Landed, draws: Draws) -> Tensor:
        """The term of every sample, [B] float32, with gradients to the landing point."""


@dataclass(frozen=True)
class Parts:
    """What a term can be built of that needs loaded models: channels of the teacher's features,
    block by block from the input on, `decode` from clean latents to pixels [B, 3, H, W] float32 in
    [-1, 1] with gradients, and the reward.
    """

    channels: Sequence[int] = (8, 8)
    decode: Callable[[Tensor], Tensor] | None = None
    reward: Reward | None = None
    device: torch.device | str = "cpu"


@dataclass(frozen=True)
class TermKind:
    """A term before it is built: `build(settings, schedule, weight, parts)`, its `weight` where
    none is given, the `flags` that it alone reads, and whether it `has_critic`.

    `needs`: "pair", a landing point and a target that should be the same picture; "clean", a
    landing point that is a picture; "" for any. `reads_pictures`: it looks at those of the data.
    """

    build: Callable[[Settings, NoiseSchedule, float, Parts], Term]
    weight: float
    flags: tuple[str, ...] = ()
    has_critic: bool = False
    needs: Callable[[Settings], str] = lambda settings: ""
    reads_pictures: Callable[[Settings], bool] = lambda settings: False


class NoGradientError(Exception):
    """Something that must depend on the landing point does not."""


def at_once(point: Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """measure(point) [B] of a point [B, C, h, w] with gradients, whose gradient to it is computed
    now, so that the activations of `measure` are free before the student's own way back begins.

    The sum over the numbers of a sample in the place of their mean keeps half precision from
    underflow. Raises NoGradientError where the value does not depend on the point.
    """
    scale = float(point[0].numel())
    inner = point.detach().requires_grad_()
    with torch.enable_grad():
        values = measure(inner)
        if not values.requires_grad:
            raise NoGradientError
        (gradient,) = torch.autograd.grad((scale * values).sum(), inner, allow_unused=True)
    if gradient is None:
        raise NoGradientError
    slope = gradient.float() / scale
    # the value of the first, the gradient of the second
    return values.detach().float() + (slope * (point - point.detach())).flatten(1).sum(1)
