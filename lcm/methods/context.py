"""What one evaluation of a loss has to go by: networks, batch, points and random numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from lcm.diffusion.solvers.base import Predict
from lcm.diffusion.times import Times
from lcm.models.conditioning import Conditioning


class Roles(Protocol):
    """What an objective asks of the networks: raw outputs [B, C, H, W] float32 for (x_t, t,
    conditioning), and features of the teacher, with gradients to x_t.
    """

    def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor: ...

    def teacher(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor: ...

    def target(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor: ...

    def second(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor: ...

    def features(
        self, x_t: Tensor, t: Tensor, conditioning: Conditioning, depth: int | None
    ) -> list[Tensor]: ...


@dataclass(frozen=True)
class LatentBatch:
    """Everything one step needs. `x0`, `noise`: [B, C, h, w] float32; `uniform_*`: [B] float32 in
    [0, 1).

    The random numbers come with the sample (they are a function of seed, epoch and sample), so the
    step has none. `trajectory` [B, N + 1, C, h, w] float32 is the teacher's path on the grid, clean
    end first, where one is cached; methods that do not follow it get its ends or its clean end
    alone. `extra_noise` [B, n, C, h, w] float32 is unit noise for what is random besides x_t, and
    `extra_uniform` [B, m] float32 in [0, 1) likewise, where the objective asks for them. `prompts`
    are the captions. `host_time` and `host_uniform` are uniform_time and extra_uniform on the CPU,
    for choices that shape the work: to read them from the device would be to wait for it.
    """

    x0: Tensor
    noise: Tensor
    uniform_time: Tensor
    uniform_guidance: Tensor
    uniform_landing: Tensor
    cond: Conditioning
    uncond: Conditioning
    trajectory: Tensor | None = None
    extra_noise: Tensor | None = None
    extra_uniform: Tensor | None = None
    prompts: tuple[str, ...] = ()
    host_time: Tensor | None = None
    host_uniform: Tensor | None = None


@dataclass(frozen=True)
class LossContext:
    """What the parts of one loss evaluation have to go by: the networks, the batch, and the points.

    `cond` is what student and target are told, `predict` the guided teacher; `progress` and
    `update` are those of `Objective.__call__`.
    """

    nets: Roles
    batch: LatentBatch
    times: Times
    x_t: Tensor
    cond: Conditioning
    predict: Predict
    progress: float
    update: int


@dataclass(frozen=True)
class Landed:
    """Where one evaluation landed at context.times.s: the student's `point` and the `target` it
    was compared with, [B, C, h, w] float32. `others` are further points that a term had the student
    make for its critic, by the critic's name, without gradients.
    """

    context: LossContext
    point: Tensor
    target: Tensor
    others: dict[str, Tensor] = field(default_factory=dict)

    def detached(self) -> Landed:
        """The same without gradients."""
        return replace(self, point=self.point.detach(), target=self.target.detach())

    def point_for(self, critic: str) -> Tensor:
        """The points that this critic learns from, [B, C, h, w]."""
        return self.others.get(critic, self.point)


class LossOutput(NamedTuple):
    """What one evaluation gives: the weighted loss of every sample, [B] float32, and the times that
    it was taken at; the value of every term in it, [B] without gradients; and what the critics are
    to learn from, None where there are none.
    """

    loss: Tensor
    times: Times
    terms: dict[str, Tensor]
    landed: Landed | None


class Numbers(NamedTuple):
    """How many random numbers something asks of every sample: unit noises of the latents' shape,
    and uniform numbers in [0, 1).
    """

    noises: int = 0
    uniforms: int = 0

    def __add__(self, other: Any) -> Numbers:
        return Numbers(self.noises + other.noises, self.uniforms + other.uniforms)

    def times(self, count: int) -> Numbers:
        """As many for each of `count`."""
        return Numbers(self.noises * count, self.uniforms * count)


class Draws:
    """The random numbers that came with a batch, handed out once each, from `start` on."""

    def __init__(self, batch: LatentBatch, start: Numbers) -> None:
        self.batch = batch
        self.next_noise, self.next_uniform = start

    def noise(self) -> Tensor:
        """Unit noise [B, C, h, w] float32."""
        assert self.batch.extra_noise is not None
        self.next_noise += 1
        return self.batch.extra_noise[:, self.next_noise - 1]

    def uniform(self) -> Tensor:
        """Uniform numbers [B] float32 in [0, 1)."""
        assert self.batch.extra_uniform is not None
        self.next_uniform += 1
        return self.batch.extra_uniform[:, self.next_uniform - 1]

    def chosen(self, share: float) -> list[bool]:
        """Whether each sample is among a `share` of them."""
        uniform, known = self.uniform(), self.batch.host_uniform
        if known is not None:
            uniform = known[:, self.next_uniform - 1]
        return (uniform < share).tolist()
