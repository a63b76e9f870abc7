"""The tangent target of continuous-time consistency, with three ways to take its derivative."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lcm.diffusion.schedule import Prediction
from lcm.methods.context import LossContext
from lcm.methods.objective import Objective


@dataclass(frozen=True)
class Tangent:
    """The student's landing point moved against its drift along the teacher's trajectory (sCM, Eq.
    6 and section 4.1; where it lands on the edge of a phase, the EMD loss of AYF).

    With F = alpha eps - sigma x0 (the v-prediction), phi = atan2(sigma, alpha) and delta = phi_t -
    phi_s, the landing point is f = cos(delta) x - sin(delta) F and g = cos(delta) d f / d phi =
    -cos^2(delta) (F - F_teacher) - cos(delta) sin(delta) (x + dF / d phi). F is regressed onto F +
    g. The first term is known exactly; the second, r times it, warms up from r = 0 to 1 over the
    share `warmup` of the run. g is divided by its root mean square plus `normalization`; None
    leaves it as it is.

    `mode` "fd": df/d phi by the finite difference to u; "central": by that from u to as far above
    t, of order 2; "jvp": by forward-mode differentiation through the target network. No difference
    reaches over the edge of one of `phases`. Returned is the landing point that belongs to F + g,
    so that with the `velocity` weight an l2 loss is |F_student - F - g|^2.
    """

    mode: str = "fd"
    warmup: float = 0.1
    normalization: float | None = 0.1
    phases: int = 1

    def __call__(self, objective: Objective, context: LossContext) -> Tensor:
        schedule, (t, _, s), x_t = objective.schedule, context.times, context.x_t
        cos, sin = schedule.alpha_sigma(t)
        asked = context.predict(x_t, t)
        output = context.nets.target(x_t, t, context.cond)
        here = velocity_of(schedule.predict(output, x_t, t), cos, sin)
        derivative = {
            "fd": self.finite_difference,
            "central": self.central_difference,
            "jvp": self.forward_mode,
        }[self.mode]
        drift = derivative(objective, context, asked, here)
        apart = here - velocity_of(asked, cos, sin)
        cos, sin = schedule.rotation(t, s)
        known = -cos.square() * apart
        warm = min(1.0, context.progress / self.warmup) if self.warmup > 0 else 1.0
        g = known + warm * (cos * drift - known)
        if self.normalization is not None:
            scale = g.square().flatten(1).mean(1).sqrt().view(-1, 1, 1, 1)
            g = g / (scale + self.normalization)
        return cos * x_t - sin * (here + g)

    def finite_difference(
        self, objective: Objective, context: LossContext, asked: Prediction, here: Tensor
    ) -> Tensor:
        """From the landing points of x_t and of x_u, one solver step below."""
        (t, u, s), schedule = context.times, objective.schedule
        cos, sin = schedule.rotation(t, s)
        below = objective.target_lands(context, objective.coupling(objective, context))
        return (cos * context.x_t - sin * here - below) / schedule.angle(t, u)

    def central_difference(
        self, objective: Objective, context: LossContext, asked: Prediction, here: Tensor
    ) -> Tensor:
        """From the landing points of both sides of t, on the teacher's line through x_t; at the top
        of a phase, from below alone.
        """
        (t, u, s), schedule = context.times, objective.schedule
        width = schedule.num_train_timesteps // self.phases
        above = torch.minimum(2 * t - u, (t // width + 1) * width - 1)

        def landing(time: Tensor) -> Tensor:
            x = schedule.jump(asked, time)
            return objective.land(context.nets.target(x, time, context.cond), x, time, s)

        return (landing(above) - landing(u)) / schedule.angle(above, u)

    def forward_mode(
        self, objective: Objective, context: LossContext, asked: Prediction, here: Tensor
    ) -> Tensor:
        """Along dx / d phi = F_teacher, with d t / d phi from the schedule's neighbouring
        timesteps.
        """
        (t, _, s), schedule = context.times, objective.schedule
        phi, last = schedule.phi, schedule.num_train_timesteps - 1
        above, under = (t + 1).clamp(max=last), (t - 1).clamp(min=0)
        rate = (above - under).float() / (phi[above] - phi[under])

        def landing(x: Tensor, time: Tensor, angle: Tensor) -> Tensor:
            output = context.nets.target(x, time, context.cond)
            cos, sin = angle.cos().view(-1, 1, 1, 1), angle.sin().view(-1, 1, 1, 1)
            return schedule.jump(schedule.split(output, x, cos, sin), s)

        teacher = velocity_of(asked, *schedule.alpha_sigma(t))
        # the fused kernels have no forward mode
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            # latents of images are channels-last, which the forward mode of group_norm cannot read
            primals = (context.x_t.contiguous(), t.float(), phi[t])
            tangents = (teacher.contiguous(), rate, torch.ones_like(rate))
            drift: Tensor = torch.func.jvp(landing, primals, tangents)[1]
        return drift


def velocity_of(prediction: Prediction, alpha: Tensor, sigma: Tensor) -> Tensor:
    """v = alpha eps - sigma x0, whatever the network predicts."""
    return alpha * prediction.eps - sigma * prediction.x0
