"""The settings of a method as typed, frozen records, built on what methods have in common.

A method's own record inherits from these and adds fields. Every field has a default, which is the
method's own value of the flag of that name. None stands only where a setting may really be absent;
what flags hold as a list is a tuple here.
"""

from __future__ import annotations

from dataclasses import dataclass

from lcm.diffusion.guidance import Guidance
from lcm.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class Settings:
    """What every method reads: the distance between landing points, the weight of a sample, and
    what is added to them.

    Raises ValueError for settings that contradict each other.
    """

    loss_type: str = "huber"
    huber_c: float | None = None
    weighting: str = "uniform"
    snr_gamma: float = 5.0
    terms: tuple[str, ...] = ()
    critic_updates: int = 1
    adversarial_real: str = "target"
    adversarial_r1: float = 0.0
    dmd_of: str = "landing"
    dmd_start: float = 0.0
    reward: str | None = None
    reward_weights: str | None = None
    reward_share: float = 0.25
    reward_vae: str | None = None
    as_control: bool = False

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises ValueError for settings that contradict each other."""

    @property
    def follows_progress(self) -> bool:
        """Whether the loss changes over the run, so that its length shapes every step."""
        return self.dmd_start > 0

    @property
    def guidance_range(self) -> tuple[float, float]:
        """The lowest and highest guidance_scale that the teacher gets; 1 where there is none."""
        return 1.0, 1.0

    @property
    def drawn_guidance_range(self) -> tuple[float, float]:
        """The guidance_scale of pictures that the teacher draws where there are prompts alone."""
        return self.guidance_range

    @property
    def play_guidance_scale(self) -> float:
        """The guidance_scale to pass at inference; 1 where guidance is distilled in."""
        return 1.0

    def guidance(self, schedule: NoiseSchedule) -> Guidance:
        """The guidance_scale of every sample of a batch."""
        low, high = self.guidance_range
        return Guidance(low, high, num_train_timesteps=schedule.num_train_timesteps)


@dataclass(frozen=True)
class TargetSettings(Settings):
    """What a method with a target network reads besides: by default the average theta^- of the
    papers. A student that is its own target at once teaches at the next time what it gets wrong at
    this one.
    """

    target: str = "ema"
    ema_decay: float = 0.95

    def ema_exponent(self, progress: float) -> float:
        """The power of `ema_decay` that is the decay at this progress; 1 where it is constant."""
        return 1.0


@dataclass(frozen=True)
class TeacherSettings(Settings):
    """What a method that asks a teacher reads besides: its solver and its guidance."""

    solver: str = "ddim"
    solver_steps: int = 1
    guidance_scale: float = 5.0
    guidance_scale_min: float | None = None
    guidance_scale_max: float | None = None
    preserve_cfg: bool = False

    @property
    def is_ranged(self) -> bool:
        """Whether something else than the one `guidance_scale` counts."""
        return self.guidance_scale_min is not None

    @property
    def guidance_range(self) -> tuple[float, float]:
        """The lowest and highest guidance_scale that the teacher gets."""
        if self.guidance_scale_min is not None and self.guidance_scale_max is not None:
            return self.guidance_scale_min, self.guidance_scale_max
        return (1.0, 1.0) if self.preserve_cfg else (self.guidance_scale, self.guidance_scale)

    @property
    def drawn_guidance_range(self) -> tuple[float, float]:
        """The guidance_scale of pictures that the teacher draws where there are prompts alone:
        where an adapter is played with guidance, its pictures are guided, and so are these.
        """
        play = self.play_guidance_scale
        return (play, play) if self.preserve_cfg else self.guidance_range

    @property
    def play_guidance_scale(self) -> float:
        """The guidance_scale to pass at inference: 1 unless the adapter still answers to it."""
        return float(self.guidance_scale) if self.preserve_cfg else 1.0

    def check(self) -> None:
        """Raises ValueError for flags of the guidance that contradict each other."""
        super().check()
        if (self.guidance_scale_min is None) != (self.guidance_scale_max is None):
            raise ValueError(
                "guidance_scale_min and guidance_scale_max make a range only together; pass both "
                "or neither"
            )
        if self.preserve_cfg and self.is_ranged:
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


@dataclass(frozen=True)
class DistillationSettings(TargetSettings, TeacherSettings):
    """What a method with both a teacher and a target network reads."""


@dataclass(frozen=True)
class PhaseSettings(TeacherSettings):
    """What a method reads that cuts the trajectory into phases, each with a guidance of its own."""

    phases: int = 4
    guidance_per_phase: tuple[float, ...] | None = None

    @property
    def is_ranged(self) -> bool:
        """Whether something else than the one `guidance_scale` counts."""
        return bool(self.guidance_per_phase) or super().is_ranged

    @property
    def guidance_range(self) -> tuple[float, float]:
        """The lowest and highest guidance_scale that the teacher gets in any phase."""
        if self.guidance_per_phase:
            return min(self.guidance_per_phase), max(self.guidance_per_phase)
        return super().guidance_range

    def guidance(self, schedule: NoiseSchedule) -> Guidance:
        """The guidance_scale of every sample of a batch, by its phase where each has its own."""
        low, high = self.guidance_range
        return Guidance(low, high, self.guidance_per_phase or (), schedule.num_train_timesteps)

    def check(self) -> None:
        """Raises ValueError for flags of the guidance that contradict each other."""
        if self.guidance_per_phase and self.guidance_scale_min is not None:
            raise ValueError(
                "guidance_per_phase and a guidance range exclude each other; pass one of them"
            )
        if self.guidance_per_phase and len(self.guidance_per_phase) != self.phases:
            raise ValueError(
                f"guidance_per_phase needs a value for each of the {self.phases} phases; got "
                f"{list(self.guidance_per_phase)}"
            )
        super().check()
