"""Flags of the distillation itself. One that is left out takes the method's own value; one that the
method does not read is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from lcm.diffusion.tables import LOSSES, SOLVERS, WEIGHTS
from lcm.methods import METHODS
from lcm.system.flags import Section, flag
from lcm.system.registry import lookup

TABLES: dict[str, Any] = {
    "solver": SOLVERS,
    "loss_type": dict.fromkeys((*LOSSES, "lpips")),
    "weighting": WEIGHTS,
    "coupling": dict.fromkeys(("solver", "same_noise", "sde")),
    "discretization": dict.fromkeys(("refined", "fixed", "ect")),
    "tangent_mode": dict.fromkeys(("fd", "jvp")),
    "target": dict.fromkeys(("online", "ema")),
}
"""Flags that name something, and the names there are."""


def own(text: str, **options: Any) -> Any:
    """A flag without a default of its own: that of the method counts."""
    return flag(None, text, **options)


@dataclass(frozen=True)
class MethodConfig(Section):
    """Method, times, solver, loss, guidance, as flags. None means that the method has no use for
    the flag, or, before it is `resolved`, that the method's default counts.
    """

    objective: str = flag("lcm", "what to distil with: " + ", ".join(METHODS))
    num_ddim_timesteps: int | None = own(
        "solver steps between noise and image; stock LCMScheduler and ComfyUI assume 50",
        at_least=1,
        at_most=1000,
    )
    solver: str | None = own("ODE solver of the teacher: " + ", ".join(SOLVERS))
    solver_steps: int | None = own("solver steps per training pair", above=0)
    coupling: str | None = own(
        "how the second point of a pair follows from the first: " + ", ".join(TABLES["coupling"])
    )
    loss_type: str | None = own(
        "distance between landing points: " + ", ".join(TABLES["loss_type"])
    )
    huber_c: float | None = own(
        "c of huber (default 0.001), huber_norm (0.00054 sqrt(dim)) and cauchy (0.1)", above=0
    )
    weighting: str | None = own("weight of a sample by its times: " + ", ".join(WEIGHTS))
    snr_gamma: float | None = own("gamma of the min_snr weighting", above=0)
    target: str | None = own("the target network: online (the student itself) or ema (its average)")
    ema_decay: float | None = own("decay of the ema target per update", at_least=0, below=1)
    guidance_scale: float | None = own(
        "guidance of the teacher that is distilled in, as in pipelines: 1 is none"
    )
    guidance_scale_min: float | None = own(
        "with guidance_scale_max: draw the guidance of every sample from this range instead"
    )
    guidance_scale_max: float | None = own("see guidance_scale_min")
    guidance_per_phase: list[float] | None = own(
        "instead: one guidance_scale per phase, the noisiest first"
    )
    preserve_cfg: bool | None = own(
        "distil the unguided teacher, so that the adapter still answers to guidance_scale and "
        "negative prompts",
        bare=True,
    )
    timestep_scaling_factor: float | None = own(
        "of the boundary scalings; LCMScheduler has 10", above=0
    )
    phases: int | None = own(
        "parts that the trajectory is cut into, and the number of inference steps", above=0
    )
    segments: list[int] | None = own("numbers of segments, merged in turn over the run")
    landing_steps: list[int] | None = own(
        "land on the times that samplers of these numbers of steps visit; an empty list in a file: "
        "anywhere below",
        at_least=1,
        at_most=1000,
        may_be_empty=True,
    )
    landing_jitter: float | None = own(
        "move landing times down by up to this share", at_least=0, at_most=1
    )
    eta: float | None = own(
        "stochasticity gamma at play, the pipelines' eta", at_least=0, at_most=1
    )
    discretization: str | None = own(
        "pairs of consistency training: refined (N doubles), fixed, ect"
    )
    first_ddim_timesteps: int | None = own(
        "N of the refined discretization at the start; num_ddim_timesteps is its end", above=0
    )
    tangent_mode: str | None = own(
        "derivative along the trajectory: fd (finite difference) or jvp (forward mode)"
    )
    tangent_step: int | None = own(
        "timesteps of the finite difference", at_least=1, at_most=100, unit=" timesteps"
    )
    tangent_warmup: float | None = own(
        "share of the run over which the derivative term fades in", at_least=0, at_most=1
    )
    tangent_normalization: float | None = own("c in g / (rms(g) + c)", above=0)
    injection: float | None = own(
        "noise shown to the student on top of x_t, in units of sigma_t: makes its answer random",
        above=0,
    )
    as_control: bool = flag(
        False, "train a composition that is known not to work, as a negative control"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, table in TABLES.items():
            if getattr(self, name) is not None:
                lookup(table, getattr(self, name), name)

    @property
    def guidance_range(self) -> tuple[float, float]:
        """The lowest and highest guidance_scale that the teacher gets."""
        if self.guidance_per_phase:
            return min(self.guidance_per_phase), max(self.guidance_per_phase)
        if self.guidance_scale_min is not None and self.guidance_scale_max is not None:
            return self.guidance_scale_min, self.guidance_scale_max
        if self.preserve_cfg or self.guidance_scale is None:
            return 1.0, 1.0
        return self.guidance_scale, self.guidance_scale

    @property
    def follows_progress(self) -> bool:
        """Whether the loss changes over the run."""
        return (
            bool(self.tangent_warmup)
            or self.discretization in ("refined", "ect")
            or bool(self.segments)
        )

    def without_effect(self) -> dict[str, str]:
        """The flags that nothing reads because of the others, each with the reason and the way
        out.
        """
        from lcm.diffusion.losses import OWN_C

        ranged = self.guidance_per_phase is not None or self.guidance_scale_min is not None
        no_solver = self.coupling in ("same_noise", "sde")
        cases = [
            (
                "guidance_scale",
                ranged,
                "beside a guidance range or guidance_per_phase",
                "leave those out",
            ),
            ("solver", no_solver, f"with coupling {self.coupling}", "pass --coupling solver"),
            ("solver_steps", no_solver, f"with coupling {self.coupling}", "pass --coupling solver"),
            ("ema_decay", self.target == "online", "with target online", "pass --target ema"),
            (
                "snr_gamma",
                self.weighting != "min_snr",
                f"with weighting {self.weighting}",
                "pass --weighting min_snr",
            ),
            (
                "huber_c",
                self.loss_type not in OWN_C,
                f"with loss_type {self.loss_type}",
                f"use one of {', '.join(OWN_C)}",
            ),
            (
                "first_ddim_timesteps",
                self.discretization != "refined",
                f"with discretization {self.discretization}",
                "pass --discretization refined",
            ),
            (
                "num_ddim_timesteps",
                self.discretization == "ect",
                "with discretization ect",
                "pass --discretization refined",
            ),
            (
                "landing_jitter",
                not self.landing_steps,
                "with empty landing_steps, which land anywhere",
                "pass some",
            ),
        ]
        return {
            name: f"{beside}; leave it out or {instead}"
            for name, is_so, beside, instead in cases
            if is_so
        }

    def check_guidance(self) -> None:
        """Raises ValueError for flags of the guidance that contradict each other."""
        if (self.guidance_scale_min is None) != (self.guidance_scale_max is None):
            raise ValueError(
                "guidance_scale_min and guidance_scale_max make a range only together; pass both "
                "or neither"
            )
        if self.guidance_per_phase and self.guidance_scale_min is not None:
            raise ValueError(
                "guidance_per_phase and a guidance range exclude each other; pass one of them"
            )
        if self.guidance_per_phase and len(self.guidance_per_phase) != self.phases:
            raise ValueError(
                f"guidance_per_phase needs a value for each of the {self.phases} phases; got "
                f"{self.guidance_per_phase}"
            )
        if self.preserve_cfg and (self.guidance_per_phase or self.guidance_scale_min is not None):
            raise ValueError(
                "preserve_cfg distils the unguided teacher; leave the range out (guidance_scale is "
                "for play)"
            )
        low, high = self.guidance_range
        if not 1.0 <= low <= high:
            raise ValueError(
                "guidance_scale must be at least 1 (1 = no guidance) and a range must ascend; got "
                f"{low} to {high}. The w of the LCM paper is guidance_scale - 1"
            )


def resolved(config: MethodConfig, also_read: Sequence[str] = ()) -> MethodConfig:
    """The configuration with the method's defaults filled in. A flag that nothing reads is None;
    `also_read` are those that the run reads, whatever the method does without.

    Raises ValueError for an unknown method, for a flag that is given without effect, and for flags
    that contradict each other or make no sense.
    """
    from lcm.diffusion.losses import OWN_C

    defaults = lookup(METHODS, config.objective, "objective").defaults
    given = {f.name for f in fields(config) if getattr(config, f.name) is not None}
    if ignored := given - defaults.keys() - {"objective", "as_control"}:
        raise ValueError(
            f"{min(ignored)} has no effect with objective {config.objective}; leave it out or "
            "choose another objective"
        )
    missing = defaults.keys() - given
    filled = replace(config, **{name: copy.copy(defaults[name]) for name in missing})
    filled.check_guidance()
    idle = {n: why for n, why in filled.without_effect().items() if n not in also_read}
    if in_vain := [name for name in idle if name in given]:
        raise ValueError(f"{in_vain[0]} has no effect {idle[in_vain[0]]}")
    filled = replace(filled, **dict.fromkeys(idle))
    if filled.huber_c is None:
        filled = replace(filled, huber_c=OWN_C.get(str(filled.loss_type)))
    return filled
