"""One distillation step, as a composition of times, a path, a coupling, a target, a loss, a
comparison and a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lcm.diffusion.consistency import TIMESTEP_SCALING, land
from lcm.diffusion.guidance import Guidance
from lcm.diffusion.losses import Loss, energy
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import TimeSampler
from lcm.diffusion.weighting import VANISHING, Weight, uniform
from lcm.methods.context import (
    Draws,
    Landed,
    LatentBatch,
    LossContext,
    LossOutput,
    Numbers,
    Roles,
)
from lcm.methods.learned_weight import LearnedWeight
from lcm.methods.terms.term import Critic, Term
from lcm.models.networks import guided_teacher


class Path(Protocol):
    """The curve from noise to data on which x_t lies: (schedule, batch, t [B]) -> x_t [B, C, h, w]
    float32.

    `is_straight`: x_t = alpha_t x0 + sigma_t eps of an image and unrelated noise, not the teacher's
    own trajectory.
    """

    @property
    def is_straight(self) -> bool: ...

    def __call__(self, schedule: NoiseSchedule, batch: LatentBatch, t: Tensor) -> Tensor: ...


class Simulation(Protocol):
    """Where inference comes past, in the place of the path, without gradients: (objective, context
    with x_t on the path) -> x_t [B, C, h, w] float32. It takes the first `noises` of extra_noise.
    """

    @property
    def noises(self) -> int: ...

    def __call__(self, objective: Objective, context: LossContext) -> Tensor: ...


class Coupling(Protocol):
    """How x_u follows from x_t, without gradients: (objective, context) -> x_u.

    `kind` is "solver" (the teacher's ODE), "path" (the point at u of the path that x_t lies on),
    "sde" (a random step) or "none" (there are no pairs).
    """

    @property
    def kind(self) -> str: ...

    def __call__(self, objective: Objective, context: LossContext) -> Tensor: ...


class Target(Protocol):
    """Where the student's landing point belongs, at context.times.s: (objective, context) -> [B, C,
    h, w] float32.
    """

    def __call__(self, objective: Objective, context: LossContext) -> Tensor: ...


class Compared(NamedTuple):
    """The distance of every sample, [B], and the student's landing point, both float32 with
    gradients.
    """

    distance: Tensor
    point: Tensor


class Comparison(Protocol):
    """How far the student is from its target: (objective, context, target) -> Compared."""

    def __call__(self, objective: Objective, context: LossContext, target: Tensor) -> Compared: ...


def at_landing(objective: Objective, context: LossContext, target: Tensor) -> Compared:
    """The distance of the student's landing point from x_t."""
    point = objective.student_lands(context)
    return Compared(objective.loss(point, target, objective.huber_c), point)


def critics_of(terms: Sequence[Term]) -> list[Critic]:
    """The critics of those that have one."""
    return [term.critic for term in terms if term.critic is not None]


@dataclass(frozen=True)
class Objective:
    """A distillation loss. Every part is a function; a method is a choice of parts.

    `timestep_scaling` None lands by the pure jump. `injection` kappa > 0 shows the student x_t +
    kappa sigma_t z, which makes its answer random. `simulation` moves x_t to where inference comes
    past. `learned_weight` is learnt with the student and multiplies `weight`. `terms` are added to
    the weighted distance, with the same weight of the times where that is below 1; the critics of
    some learn after every update, `critic_updates` times from the same landing points; with
    `all_terms` none of them waits for its start, so that a run can be measured at its dearest.
    Raises ValueError for a composition that cannot work, unless it `is_control`: negative controls
    are built to be measured.
    """

    schedule: NoiseSchedule
    times: TimeSampler
    path: Path
    coupling: Coupling
    target: Target
    loss: Loss
    guidance: Guidance
    compare: Comparison = at_landing
    weight: Weight = uniform
    huber_c: float | None = None
    snr_gamma: float | None = None
    timestep_scaling: float | None = TIMESTEP_SCALING
    injection: float = 0.0
    simulation: Simulation | None = None
    learned_weight: LearnedWeight | None = None
    terms: tuple[Term, ...] = ()
    critic_updates: int = 1
    all_terms: bool = False
    is_control: bool = False

    def __post_init__(self) -> None:
        if not self.is_control:
            self.check()

    def check(self) -> None:
        """Raises ValueError with the reason why this composition cannot work, and the nearest one
        that does.
        """
        if self.coupling.kind == "path" and self.path.is_straight and self.times.direct:
            raise ValueError(
                "regressing the flow map onto x_s of the same noise learns the teacher again: the "
                "optimum is E[x_s | x_t] = alpha_s x0 + sigma_s eps, one DDIM step of the ideal "
                "denoiser, for every s. Use --coupling solver, whose target is the end of several "
                "solver steps"
            )
        if self.coupling.kind == "sde" and self.loss is not energy:
            raise ValueError(
                "with a random step from t to u, l2 and its like learn the denoiser: the optimum "
                "is f(x_t) = E[f(x_u) | x_t], which by the tower property is E[x0 | x_t] for every "
                "number of steps. Use --loss_type energy, a proper scoring rule, or --coupling "
                "solver"
            )
        if (self.loss is energy) != (self.injection > 0):
            raise ValueError(
                "the energy score compares random answers and needs the injected noise of "
                "--objective stochastic_flow; use another --loss_type with other objectives, and "
                "energy with that one"
            )
        if self.simulation is not None and self.coupling.kind in ("path", "sde"):
            raise ValueError(
                "simulated_play leaves the path of the picture and its noise, so the second point "
                "of a pair must follow by the teacher's ODE; use --coupling solver"
            )
        if self.weight in VANISHING and self.schedule.has_zero_terminal_snr:
            raise ValueError(
                f"weighting {self.weight.__name__} is 0 at the last timestep of a teacher with "
                "zero terminal SNR, so the timestep that every picture starts from would never be "
                "trained. Use --weighting uniform or velocity"
            )

    @property
    def own_noises(self) -> int:
        """Unit noises per sample besides the one of x_t, without those of the terms: two for the
        student, one for the target, one for the coupling; or those of the simulation.
        """
        if self.injection > 0 or self.coupling.kind == "sde":
            return 4
        return 0 if self.simulation is None else self.simulation.noises

    @property
    def critics(self) -> list[Critic]:
        """What learns against the student."""
        return critics_of(self.terms)

    def active(self, progress: float) -> list[Term]:
        """The terms that count at this progress of the run."""
        return [term for term in self.terms if self.all_terms or progress >= term.start]

    def waiting(self, progress: float) -> list[Term]:
        """The terms that do not count yet."""
        return [term for term in self.terms if not self.all_terms and progress < term.start]

    def numbers_before(self, critic_update: int) -> Numbers:
        """The random numbers per sample, besides the usual ones, that come before those of the
        critics' update number `critic_update`, counted from 0.
        """
        of_terms = sum((term.numbers for term in self.terms), Numbers(self.own_noises))
        each = sum((critic.numbers for critic in self.critics), Numbers())
        return of_terms + each.times(critic_update)

    @property
    def extra_numbers(self) -> Numbers:
        """All random numbers per sample besides the usual ones."""
        return self.numbers_before(self.critic_updates)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the loss learns for itself, beside the student."""
        return list(self.learned_weight.parameters()) if self.learned_weight is not None else []

    def __call__(
        self, nets: Roles, batch: LatentBatch, progress: float = 0.0, update: int = 0
    ) -> LossOutput:
        """The weighted loss of every sample, and the times that it was taken at. `progress` in
        [0, 1) is the share of the run that is done, `update` the number of updates before this one.
        """
        times = self.times(batch.uniform_time, batch.uniform_landing, progress)
        x_t = self.path(self.schedule, batch, times.t)
        scale = self.guidance(times.t, batch.uniform_guidance)
        cond = batch.cond.with_guidance_scale(scale)  # read only by a network with a w-embedding
        asked = None if self.guidance.is_none else scale
        predict = guided_teacher(nets.teacher, self.schedule, batch.cond, batch.uncond, asked)
        context = LossContext(nets, batch, times, x_t, cond, predict, progress, update)
        with torch.no_grad():
            if self.simulation is not None:
                context = replace(context, x_t=self.simulation(self, context))
            target = self.target(self, context)
        # the student comes last: its saved activations then never coexist with the passes that
        # need no gradient
        distance, point = self.compare(self, context, target)
        weight = self.weight(self.schedule, times, self.snr_gamma)
        weighted = weight * distance
        if self.learned_weight is not None:
            weighted = self.learned_weight(weighted, times.t)
        landed, draws = Landed(context, point, target), Draws(batch, Numbers(self.own_noises))
        values = {}
        for term in self.active(progress):
            value = term(landed, draws)
            values[term.name] = value.detach()
            # a weight above 1 undoes what makes a distance small, which is not so of a term
            weighted = weighted + term.weight * weight.clamp(max=1.0) * value
        return LossOutput(weighted, times, values, landed.detached() if self.critics else None)

    def critic_losses(self, landed: Landed, update: int) -> dict[str, Tensor]:
        """What every critic has to learn from the points of an evaluation, [B] each, in its update
        number `update` of this step, counted from 0.
        """
        draws = Draws(landed.context.batch, self.numbers_before(update))
        critics = critics_of(self.active(landed.context.progress))
        return {critic.name: critic(landed, draws) for critic in critics}

    def student_lands(self, context: LossContext) -> Tensor:
        """f(x_t, t -> s) of the student, [B, C, h, w], or two draws of it, [2B, C, h, w], where the
        loss compares laws.
        """
        (t, _, s), x_t, cond = context.times, context.x_t, context.cond
        if self.loss is not energy:
            seen = self.inject(context, x_t, t, 0)
            return self.land(context.nets.student(seen, t, cond), seen, t, s)
        seen = torch.cat([self.inject(context, x_t, t, draw) for draw in (0, 1)])
        twice = torch.cat([t, t])
        return self.land(
            context.nets.student(seen, twice, cond.cat(cond)), seen, twice, torch.cat([s, s])
        )

    def target_lands(self, context: LossContext, x_u: Tensor) -> Tensor:
        """f(x_u, u -> s) of the target network."""
        _, u, s = context.times
        seen = self.inject(context, x_u, u, 2)
        return self.land(context.nets.target(seen, u, context.cond), seen, u, s)

    def inject(self, context: LossContext, x: Tensor, t: Tensor, draw: int) -> Tensor:
        """x + kappa sigma_t z with the draw's own noise z; x itself without injection."""
        if self.injection == 0:
            return x
        assert context.batch.extra_noise is not None
        return (
            x
            + self.injection * self.schedule.alpha_sigma(t)[1] * context.batch.extra_noise[:, draw]
        )

    def land(self, output: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return land(self.schedule, output, x_t, t, s, timestep_scaling=self.timestep_scaling)
