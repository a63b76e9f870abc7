"""Flags of the distillation itself. One that is left out takes the method's own value; one that the
method does not read is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from lcm.diffusion.tables import LOSSES, SOLVERS, WEIGHTS
from lcm.methods import METHODS
from lcm.methods.arguments import read_arguments, write_arguments
from lcm.system.flags import Section, flag
from lcm.system.registry import lookup

if TYPE_CHECKING:
    from lcm.methods.settings import Settings


def own(text: str, unset: str | None = None, **options: Any) -> Any:
    """A flag without a default of its own: that of the method counts. `unset` says which that is,
    since to ask the methods is to load PyTorch, too much for `--help`.
    """
    return flag(None, text, unset=unset, **options)


@dataclass(frozen=True)
class MethodConfig(Section):
    """Method, times, solver, loss, guidance, as flags. None means that the method has no use for
    the flag, or, before it is `resolved`, that the method's default counts.
    """

    objective: str = flag("lcm", "the method to distil with", names=lambda: METHODS)
    num_ddim_timesteps: int | None = own(
        "solver steps between noise and image; stock LCMScheduler and ComfyUI assume 50",
        "50; 1000 with ct; 40 with pcm, tscd, endpoint, reflow",
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
        "huber; l2 with cd, tscd, endpoint, reflow, scm, flow_map; energy with stochastic_flow",
        names=lambda: (*LOSSES, "lpips"),
    )
    huber_c: float | None = own(
        "the c of a loss that has one",
        "0.001 with huber, 0.00054 sqrt(dim) with huber_norm, 0.1 with cauchy",
        above=0,
        at_most=1e6,
    )
    weighting: str | None = own(
        "weight of a sample by its times", "uniform; velocity with scm", names=lambda: WEIGHTS
    )
    snr_gamma: float | None = own("gamma of the min_snr weighting", "5.0", above=0, at_most=1e6)
    target: str | None = own(
        "the target network: online is the student itself, ema its average",
        "online; ema with cd",
        names=lambda: ("online", "ema"),
    )
    ema_decay: float | None = own("decay of the ema target per update", "0.95", at_least=0, below=1)
    guidance_scale: float | None = own(
        "guidance of the teacher that is distilled in, as in pipelines: 1 is none",
        "7.5",
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
    phases: int | None = own(
        "parts that the trajectory is cut into, and the number of inference steps",
        "4 with pcm, flow_map",
        above=0,
        at_most=1000,
    )
    segments: list[int] | None = own(
        "numbers of segments, merged in turn over the run",
        "8 4 2 1 with tscd",
        at_least=1,
        at_most=1000,
    )
    landing_steps: list[int] | None = own(
        "land on the times that samplers of these numbers of steps visit; an empty list in a file: "
        "anywhere below",
        "4 5 6 7 8 with tcd",
        at_least=1,
        at_most=1000,
        may_be_empty=True,
    )
    landing_jitter: float | None = own(
        "move landing times down by up to this share", "0.3 with tcd", at_least=0, at_most=1
    )
    eta: float | None = own(
        "stochasticity gamma at play, the pipelines' eta",
        "0.3 with tcd; 0.0 with tscd",
        at_least=0,
        at_most=1,
    )
    discretization: str | None = own(
        "the pairs of consistency training: in refined N doubles over the run",
        "refined with ct",
        names=lambda: ("refined", "fixed", "ect"),
    )
    first_ddim_timesteps: int | None = own(
        "N of the refined discretization at the start; num_ddim_timesteps is its end",
        "10 with ct",
        above=0,
        at_most=1000,
    )
    tangent_mode: str | None = own(
        "derivative along the trajectory: fd is a finite difference, jvp forward mode",
        "fd with scm",
        names=lambda: ("fd", "jvp"),
    )
    tangent_step: int | None = own(
        "timesteps of the finite difference",
        "5 with scm",
        at_least=1,
        at_most=100,
        unit=" timesteps",
    )
    tangent_warmup: float | None = own(
        "share of the run over which the derivative term fades in",
        "0.1 with scm",
        at_least=0,
        at_most=1,
    )
    tangent_normalization: float | None = own(
        "c in g / (rms(g) + c)", "0.1 with scm", above=0, at_most=1e6
    )
    injection: float | None = own(
        "noise shown to the student on top of x_t, in units of sigma_t: makes its answer random",
        "0.5 with stochastic_flow",
        above=0,
        at_most=1000,
    )
    as_control: bool = flag(
        False, "train a composition that is known not to work, as a negative control"
    )

    method_args: list[str] = flag(
        [],
        "settings of a method from outside that are no flags of their own, each as name=value",
        may_be_empty=True,
        is_optional=True,
    )

    @property
    def guidance_range(self) -> tuple[float, float]:
        """The lowest and highest guidance_scale that the teacher gets; 1 where there is none."""
        return settings_of(self).guidance_range

    @property
    def follows_progress(self) -> bool:
        """Whether the loss changes over the run."""
        return settings_of(self).follows_progress

    def without_effect(self) -> dict[str, str]:
        """The flags that nothing reads because of the others, each with the reason and the way
        out.
        """
        from lcm.diffusion.losses import OWN_C

        # a flag that silently does nothing is how the public scripts lose a night of training
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


FLAGS = frozenset(f.name for f in fields(MethodConfig))
"""Every flag of the distillation itself."""


def flags_of(settings: Settings) -> dict[str, Any]:
    """The flags that a method with these settings reads, and their values as flags hold them."""
    values = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name in FLAGS}
    return {n: list(value) if isinstance(value, tuple) else value for n, value in values.items()}


def settings_of(config: MethodConfig) -> Settings:
    """The method's own settings, from its flags and `method_args`. Where a flag is None, nothing
    reads it, or it is not resolved yet: the method's default stands for it.

    Raises ValueError for an unknown method and for settings that contradict each other.
    """
    defaults = lookup(METHODS, config.objective, "objective").settings
    flags = {name: getattr(config, name) for name in flags_of(defaults)}
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in flags.items()
        if value is not None
    }
    own_values = read_arguments(config.method_args, defaults, FLAGS, config.objective)
    return replace(defaults, **given, **own_values)


def resolved(config: MethodConfig, also_read: Sequence[str] = ()) -> MethodConfig:
    """The configuration with the method's defaults filled in. A flag that nothing reads is None;
    `also_read` are those that the run reads, whatever the method does without.

    Raises ValueError for an unknown method, for a flag that is given without effect, and for flags
    that contradict each other or make no sense.
    """
    from lcm.diffusion.losses import OWN_C

    defaults = flags_of(lookup(METHODS, config.objective, "objective").settings)
    given = {name for name in FLAGS if getattr(config, name) is not None}
    given -= {"objective", "method_args"}
    if ignored := given - defaults.keys():
        raise ValueError(
            f"{min(ignored)} has no effect with objective {config.objective}; leave it out or "
            "choose another objective"
        )
    filled = replace(config, **{n: value for n, value in defaults.items() if n not in given})
    settings = settings_of(filled)
    idle = {n: why for n, why in filled.without_effect().items() if n not in also_read}
    if in_vain := [name for name in idle if name in given]:
        raise ValueError(f"{in_vain[0]} has no effect {idle[in_vain[0]]}")
    nothing: dict[str, Any] = dict.fromkeys(idle)
    # what a method from outside has besides flags is written out, as the defaults of flags are
    filled = replace(filled, **nothing, method_args=write_arguments(settings, FLAGS))
    if filled.huber_c is None:
        filled = replace(filled, huber_c=OWN_C.get(settings.loss_type))
    return filled
