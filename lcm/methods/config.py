"""Flags of the distillation itself. One that is left out takes the method's own value; one that the
method does not read is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from lcm.methods import METHODS
from lcm.methods.arguments import read_arguments, write_arguments
from lcm.methods.own_flags import OwnFlags
from lcm.methods.shared_flags import SharedFlags
from lcm.methods.term_flags import TermFlags
from lcm.system.flags import flag
from lcm.system.registry import lookup

if TYPE_CHECKING:
    from lcm.methods.settings import Settings

PRESERVED_GUIDANCE = 2.0
"""The guidance to play an adapter of preserve_cfg with where nothing else is said. It is added in
each of a few steps, so it must be weaker than over 40 (docs/guidance.md has the measurement).
"""


@dataclass(frozen=True)
class MethodConfig(OwnFlags, SharedFlags, TermFlags):
    """Method, times, solver, loss, guidance, as flags. None means that the method has no use for
    the flag, or, before it is `resolved`, that the method's default counts.
    """

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
        choices = (
            ("coupling", self.coupling, ("same_noise", "sde"), "solver"),
            # those ask the teacher for a direction alone
            ("tangent_mode", self.tangent_mode, ("central", "jvp"), "fd"),
        )
        cases = [
            *(
                (solver, value in asking_none, f"with {name} {value}", f"pass --{name} {way}")
                for solver in ("solver", "solver_steps")
                for name, value, asking_none, way in choices
            ),
            (
                "guidance_scale",
                ranged,
                "beside a guidance range or guidance_per_phase",
                "leave those out",
            ),
            (
                "tangent_step",
                self.tangent_mode == "jvp",
                "with tangent_mode jvp",
                "pass --tangent_mode central",
            ),
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
            *self.pairs_without_effect(),
            *self.terms_without_effect(),
            (
                "simulated_play_warmup_steps",
                self.simulated_play == 0,
                "with simulated_play 0",
                "pass --simulated_play 0.5",
            ),
            *(
                (
                    name,
                    not self.landing_steps,
                    "with empty landing_steps, which land anywhere",
                    "pass some",
                )
                for name in ("landing_jitter", "landing_window")
            ),
        ]
        return {
            name: f"{beside}; leave it out or {instead}"
            for name, is_so, beside, instead in cases
            if is_so
        }

    def pairs_without_effect(self) -> list[tuple[str, bool, str, str]]:
        """Of the flags of consistency training: each, whether nothing reads it, because of what,
        and the way out.
        """
        grows = self.discretization in ("refined", "cm")
        pairs, refine = f"with discretization {self.discretization}", "pass --discretization "
        of_curve = ("ect_q", "ect_k", "ect_b", "ect_stages")
        times = f"with time_distribution {self.time_distribution}"
        is_idle = self.time_distribution != "lognormal"
        way_out = "pass --time_distribution lognormal"
        return [
            ("first_ddim_timesteps", not grows, pairs, refine + "refined"),
            ("num_ddim_timesteps", self.discretization == "ect", pairs, refine + "refined"),
            *((name, self.discretization != "ect", pairs, refine + "ect") for name in of_curve),
            ("lognormal_mean", is_idle, times, way_out),
            ("lognormal_std", is_idle, times, way_out),
            ("ema_schedule", not grows, pairs, refine + "cm"),
            ("ema_schedule", self.target == "online", "with target online", "pass --target ema"),
        ]

    def terms_without_effect(self) -> list[tuple[str, bool, str, str]]:
        """Of the flags of terms, likewise."""
        from lcm.methods.terms import TERMS
        from lcm.methods.terms.build import read_terms
        from lcm.methods.terms.reward import NETWORKS

        weights = read_terms(self.terms or ())
        no_critic = not any(TERMS[name].has_critic for name in weights)
        lacks = "without a term that has a critic", "pass --terms adversarial or dmd"
        no_distance = METHODS[self.objective].compares == "nothing"
        alone = f"with objective {self.objective}, which compares nothing", "choose another one"
        return [
            (
                "reward_weights",
                self.reward not in NETWORKS,
                f"with reward {self.reward}",
                f"pass --reward {NETWORKS[0]}",
            ),
            *(
                (flag, name not in weights, f"without the term {name}", f"pass --terms {name}")
                for name, term in TERMS.items()
                for flag in term.flags
            ),
            ("critic_updates", no_critic, *lacks),
            *(
                (flag, no_distance, *alone)
                for flag in ("loss_type", "huber_c", "solver", "solver_steps")
            ),
        ]


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
    from lcm.methods.terms.build import spelled

    defaults = flags_of(lookup(METHODS, config.objective, "objective").settings)
    given = {name for name in FLAGS if getattr(config, name) is not None}
    given -= {"objective", "method_args"}
    if ignored := given - defaults.keys():
        raise ValueError(
            f"{min(ignored)} has no effect with objective {config.objective}; leave it out or "
            "choose another objective"
        )
    if config.preserve_cfg and "guidance_scale" in defaults:
        defaults = {**defaults, "guidance_scale": PRESERVED_GUIDANCE}
    filled = replace(config, **{n: value for n, value in defaults.items() if n not in given})
    settings = settings_of(filled)
    idle = {n: why for n, why in filled.without_effect().items() if n not in also_read}
    if in_vain := [name for name in idle if name in given]:
        raise ValueError(f"{in_vain[0]} has no effect {idle[in_vain[0]]}")
    nothing: dict[str, Any] = dict.fromkeys(idle)
    # what a method from outside has besides flags is written out, as the defaults of flags are
    filled = replace(filled, **nothing, method_args=write_arguments(settings, FLAGS))
    if filled.huber_c is None and METHODS[config.objective].compares != "nothing":
        filled = replace(filled, huber_c=OWN_C.get(settings.loss_type))
    return filled if filled.terms is None else replace(filled, terms=spelled(filled.terms))
