"""Flags that one or a few methods read. None as in `shared_flags`."""

from __future__ import annotations

from dataclasses import dataclass

from lcm.methods.shared_flags import own
from lcm.system.flags import Section


@dataclass(frozen=True)
class OwnFlags(Section):
    """Landing times, phases, discretisations, tangents and what else a method has of its own."""

    skipping_steps: int | None = own(
        "grid points that the solver step of a training pair spans, k of LCM",
        "3; 1 with cd",
        above=0,
        at_most=1000,
    )
    simulated_play: float | None = own(
        "share of samples that begin where inference comes past: noise is added to what the "
        "student made of a noisier point, and not to the picture; 0 is none",
        "0.5; 0.0 with cd",
        at_least=0,
        at_most=1,
    )
    simulated_play_warmup_steps: int | None = own(
        "updates over which that share grows from none to simulated_play",
        "200",
        at_least=0,
        at_most=10**9,
    )
    phases: int | None = own(
        "parts that the trajectory is cut into, and the number of inference steps",
        "4 with pcm, phased_scm, flow_map",
        above=0,
        at_most=1000,
    )
    segments: list[int] | None = own(
        "numbers of segments, merged in turn over the run",
        "8 4 2 1 with tscd, hyper",
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
    landing_window: int | None = own(
        "land no more than so many timesteps below the highest landing time that is left; 260 in "
        "TDD",
        "1000 with tcd",
        at_least=0,
        at_most=1000,
        unit=" timesteps",
    )
    eta: float | None = own(
        "stochasticity gamma at play, the pipelines' eta",
        "0.3 with tcd; 0.0 with tscd, hyper",
        at_least=0,
        at_most=1,
    )
    rollout_steps: list[int] | None = own(
        "numbers of steps that the student plays from noise to image, each with gradients through "
        "all of them",
        "4 with rollout",
        at_least=1,
        at_most=1000,
    )
    dmd_steps: list[int] | None = own(
        "numbers of steps that the student of dmd is made for",
        "1 2 4 with dmd",
        at_least=1,
        at_most=1000,
    )
    first_timestep: int | None = own(
        "timestep at which the student of dmd begins, in training and in play; 999 is the last",
        "699 with dmd",
        at_least=1,
        at_most=999,
    )
    discretization: str | None = own(
        "the pairs of consistency training: in refined N doubles over the run (iCT), in cm it "
        "grows as a square root (CM)",
        "refined with ct",
        names=lambda: ("refined", "cm", "fixed", "ect"),
    )
    first_ddim_timesteps: int | None = own(
        "N of a growing discretization at the start; num_ddim_timesteps is its end",
        "10 with ct",
        above=0,
        at_most=1000,
    )
    ect_q: float | None = own(
        "q of the discretization ect: pairs come q times closer in each stage",
        "2.0 with ct",
        above=1,
        at_most=1e6,
    )
    ect_k: float | None = own(
        "k of the discretization ect: how much wider pairs of little noise are",
        "8.0 with ct",
        at_least=0,
        at_most=1e6,
    )
    ect_b: float | None = own(
        "b of the discretization ect: from which noise level of EDM on they are not",
        "1.0 with ct",
        at_least=0,
        at_most=1e6,
    )
    ect_stages: int | None = own(
        "stages of the discretization ect, equal shares of the run",
        "8 with ct",
        above=0,
        at_most=100,
    )
    time_distribution: str | None = own(
        "how often each noise level is trained: every step of the grid alike, or by a log-normal "
        "law of the noise level (iCT, ECT, sCM)",
        "uniform with ct, scm, phased_scm",
        names=lambda: ("uniform", "lognormal"),
    )
    lognormal_mean: float | None = own(
        "mean of the logarithm of EDM's noise level, which is half of sigma / alpha",
        "-1.1 with ct; -1.0 with scm, phased_scm",
        at_least=-100,
        at_most=100,
    )
    lognormal_std: float | None = own(
        "standard deviation of the same",
        "2.0 with ct; 1.4 with scm, phased_scm",
        at_least=0.01,
        at_most=100,
    )
    ema_schedule: str | None = own(
        "cm: the decay of the ema target rises from ema_decay as the discretization grows",
        "constant with ct",
        names=lambda: ("constant", "cm"),
    )
    tangent_mode: str | None = own(
        "derivative along the trajectory: fd is a finite difference down, central one to both "
        "sides, jvp forward mode",
        "fd with scm, phased_scm",
        names=lambda: ("fd", "central", "jvp"),
    )
    tangent_step: int | None = own(
        "timesteps of the finite difference",
        "5 with scm, phased_scm",
        at_least=1,
        at_most=100,
        unit=" timesteps",
    )
    tangent_warmup: float | None = own(
        "share of the run over which the derivative term fades in",
        "0.1 with scm, phased_scm",
        at_least=0,
        at_most=1,
    )
    tangent_normalization: float | None = own(
        "c in g / (rms(g) + c)", "0.1 with scm, phased_scm", above=0, at_most=1e6
    )
    learned_weight: bool | None = own(
        "with scm and phased_scm: learn how much each noise level counts, so that all count "
        "alike; w_phi of sCM",
        bare=True,
    )
    injection: float | None = own(
        "noise shown to the student on top of x_t, in units of sigma_t: makes its answer random",
        "0.5 with stochastic_flow",
        above=0,
        at_most=1000,
    )
