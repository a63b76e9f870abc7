"""Flags of the distillation itself. One that is left out takes the method's own value; one that it
ignores is refused.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from lcm.diffusion.losses import LOSSES, OWN_C
from lcm.diffusion.solvers import SOLVERS
from lcm.diffusion.weighting import WEIGHTS
from lcm.system.registry import lookup


def flag(text: str, **metadata: Any) -> Any:
    """A flag without a value of its own: the method's default counts."""
    return field(default=None, metadata={"help": text, **metadata})


CHOICES: dict[str, tuple[str, ...]] = {
    "solver": tuple(SOLVERS),
    "loss_type": (*LOSSES, "lpips"),
    "weighting": tuple(WEIGHTS),
    "coupling": ("solver", "same_noise", "sde"),
    "discretization": ("refined", "fixed", "ect"),
    "tangent_mode": ("fd", "jvp"),
    "target": ("online", "ema"),
}


@dataclass
class ObjectiveConfig:
    """Method, times, solver, loss, guidance. None means that the method has no use for the flag, or
    that its default counts.
    """

    objective: str = field(
        default="lcm", metadata={"help": "what to distil with; one of lcm.methods.OBJECTIVES"}
    )
    num_ddim_timesteps: int | None = flag(
        "solver steps between noise and image; stock LCMScheduler and ComfyUI assume 50"
    )
    solver: str | None = flag("ODE solver of the teacher: " + ", ".join(SOLVERS))
    solver_steps: int | None = flag("solver steps per training pair")
    coupling: str | None = flag(
        "how the second point of a pair follows from the first: " + ", ".join(CHOICES["coupling"])
    )
    loss_type: str | None = flag(
        "distance between landing points: " + ", ".join(CHOICES["loss_type"])
    )
    huber_c: float | None = flag(
        "c of huber (default 0.001), huber_norm (0.00054 sqrt(dim)) and cauchy (0.1)"
    )
    weighting: str | None = flag("weight of a sample by its times: " + ", ".join(WEIGHTS))
    snr_gamma: float | None = flag("gamma of the min_snr weighting")
    target: str | None = flag(
        "the target network: online (the student itself) or ema (its average)"
    )
    ema_decay: float | None = flag("decay of the ema target per update")
    guidance_scale: float | None = flag(
        "guidance of the teacher that is distilled in, as in pipelines: 1 is none"
    )
    guidance_scale_min: float | None = flag(
        "with guidance_scale_max: draw the guidance of every sample from this range instead"
    )
    guidance_scale_max: float | None = flag("see guidance_scale_min")
    guidance_per_phase: list[float] | None = flag(
        "instead: one guidance_scale per phase, the noisiest first"
    )
    preserve_cfg: bool | None = flag(
        "distil the unguided teacher, so that the adapter still answers to guidance_scale and "
        "negative prompts",
        nargs="?",  # argparse: the bare flag means true
        const=True,
    )
    timestep_scaling_factor: float | None = flag("of the boundary scalings; LCMScheduler has 10")
    phases: int | None = flag(
        "parts that the trajectory is cut into, and the number of inference steps"
    )
    segments: list[int] | None = flag("numbers of segments, merged in turn over the run")
    landing_steps: list[int] | None = flag(
        "land on the times that samplers of these numbers of steps visit; an empty list in a file: "
        "anywhere below"
    )
    landing_jitter: float | None = flag("move landing times down by up to this share")
    eta: float | None = flag("stochasticity gamma at play, the pipelines' eta")
    discretization: str | None = flag(
        "pairs of consistency training: refined (N doubles), fixed, ect"
    )
    first_ddim_timesteps: int | None = flag(
        "N of the refined discretization at the start; num_ddim_timesteps is its end"
    )
    tangent_mode: str | None = flag(
        "derivative along the trajectory: fd (finite difference) or jvp (forward mode)"
    )
    tangent_step: int | None = flag("timesteps of the finite difference")
    tangent_warmup: float | None = flag("share of the run over which the derivative term fades in")
    tangent_normalization: float | None = flag("c in g / (rms(g) + c)")
    injection: float | None = flag(
        "noise shown to the student on top of x_t, in units of sigma_t: makes its answer random"
    )
    as_control: bool = field(
        default=False,
        metadata={"help": "train a composition that is known not to work, as a negative control"},
    )

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

    def resolve(self, defaults: dict[str, Any]) -> None:
        """Fills in a method's defaults, whose keys are the flags it reads. A flag without effect is
        None afterwards.

        Raises ValueError for a flag that is given without effect, and for flags that contradict
        each other or make no sense.
        """
        given = {
            name for name in ObjectiveConfig.__dataclass_fields__ if getattr(self, name) is not None
        }
        ignored = given - defaults.keys() - {"objective", "as_control"}
        if ignored:
            raise ValueError(
                f"{min(ignored)} has no effect with objective {self.objective}; leave it out or "
                "choose another objective"
            )
        for name in defaults.keys() - given:
            setattr(self, name, copy.copy(defaults[name]))
        self.check_objective()
        for name, reason in self.without_effect().items():
            if name in given:
                raise ValueError(f"{name} has no effect {reason}")
            setattr(self, name, None)
        if self.huber_c is None:
            self.huber_c = OWN_C.get(str(self.loss_type))

    def without_effect(self) -> dict[str, str]:
        """The flags that nothing reads because of the others, each with the reason and the way
        out.
        """
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

    def check_objective(self) -> None:
        """Raises ValueError for flags that contradict each other or make no sense."""
        for name, choices in CHOICES.items():
            if getattr(self, name) is not None:
                lookup(dict.fromkeys(choices), getattr(self, name), name)
        self._check_guidance()
        if self.num_ddim_timesteps is not None and not 1 <= self.num_ddim_timesteps <= 1000:
            raise ValueError(
                f"num_ddim_timesteps must lie in 1..1000; got {self.num_ddim_timesteps}"
            )
        for name in (
            "huber_c",
            "timestep_scaling_factor",
            "snr_gamma",
            "tangent_normalization",
            "injection",
        ):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        for name in ("landing_jitter", "eta", "tangent_warmup"):
            if getattr(self, name) is not None and not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in 0..1; got {getattr(self, name)}")
        if self.landing_steps is not None and not all(1 <= n <= 1000 for n in self.landing_steps):
            raise ValueError(f"landing_steps must lie in 1..1000; got {self.landing_steps}")
        if self.tangent_step is not None and not 1 <= self.tangent_step <= 100:
            raise ValueError(f"tangent_step must lie in 1..100 timesteps; got {self.tangent_step}")

    def _check_guidance(self) -> None:
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
