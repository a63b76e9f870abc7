"""Flags that most methods read: times, solver, loss, target and guidance.

None means that the method has no use for the flag, or, before it is resolved, that the method's
own default counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lcm.diffusion.tables import LOSSES, SOLVERS, WEIGHTS
from lcm.methods import METHODS
from lcm.system.flags import Section, flag


def own(text: str, unset: str | None = None, **options: Any) -> Any:
    """A flag without a default of its own: that of the method counts. `unset` says which that is,
    since to ask the methods is to load PyTorch, too much for `--help`.
    """
    return flag(None, text, unset=unset, **options)


@dataclass(frozen=True)
class SharedFlags(Section):
    """Method, times, solver, loss, target, guidance."""

    objective: str = flag("lcm", "the method to distil with", names=lambda: METHODS)
    num_ddim_timesteps: int | None = own(
        "solver steps between noise and image; stock LCMScheduler and ComfyUI assume 50",
        "50; 1000 with ct; 40 with pcm, tscd, endpoint, reflow, rollout, hyper",
        at_least=1,
        at_most=1000,
    )
    solver: str | None = own(
        "ODE solver of the teacher", "ddim; heun with cd", names=lambda: SOLVERS
    )
    solver_steps: int | None = own(
        "solver steps per training pair", "1; 8 with flow_map", above=0, at_most=1000
    )
    coupling: str | None = own(
        "how the second point of a pair follows from the first",
        "solver with flow_map; sde with stochastic_flow",
        names=lambda: ("solver", "same_noise", "sde"),
    )
    loss_type: str | None = own(
        "distance between landing points",
        "huber; l2 with cd, tscd, endpoint, reflow, rollout, scm, phased_scm, flow_map, "
        "hyper; energy with stochastic_flow",
        names=lambda: (*LOSSES, "lpips"),
    )
    huber_c: float | None = own(
        "the c of a loss that has one",
        "0.001 with huber, 0.00054 sqrt(dim) with huber_norm, 0.1 with cauchy",
        above=0,
        at_most=1e6,
    )
    weighting: str | None = own(
        "weight of a sample by its times",
        "balanced; uniform with cd, ct, pcm, tcd, tscd, endpoint, reflow, rollout, flow_map, "
        "hyper, stochastic_flow; velocity with scm, phased_scm",
        names=lambda: WEIGHTS,
    )
    snr_gamma: float | None = own("gamma of the min_snr weighting", "5.0", above=0, at_most=1e6)
    target: str | None = own(
        "the target network: ema is an average of the student, online the student itself",
        "ema; online with ct, scm, phased_scm, stochastic_flow",
        names=lambda: ("online", "ema"),
    )
    ema_decay: float | None = own(
        "decay of the ema target per update, reached after some", "0.95", at_least=0, below=1
    )
    guidance_scale: float | None = own(
        "guidance of the teacher that is distilled in, as in pipelines: 1 is none; with "
        "preserve_cfg that of play",
        "5.0; 2.0 with preserve_cfg",
        at_most=1000,
    )
    guidance_scale_min: float | None = own(
        "with guidance_scale_max: draw the guidance of every sample from this range instead",
        "one guidance_scale",
        at_most=1000,
    )
    guidance_scale_max: float | None = own(
        "see guidance_scale_min", "one guidance_scale", at_most=1000
    )
    guidance_per_phase: list[float] | None = own(
        "one guidance_scale per phase instead, the noisiest first",
        "one guidance_scale",
        at_most=1000,
    )
    preserve_cfg: bool | None = own(
        "distil the unguided teacher, so that the adapter still answers to guidance_scale and "
        "negative prompts",
        bare=True,
    )
    timestep_scaling_factor: float | None = own(
        "of the boundary scalings; LCMScheduler has 10", "10.0", above=0, at_most=1e6
    )
