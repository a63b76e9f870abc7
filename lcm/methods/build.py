"""The doors to the methods: from the flags of a run to its loss, its play and its recipe."""

from __future__ import annotations

from dataclasses import replace

from lcm.adapter.recipe import UNCLIPPED, Play, Recipe, TeacherFacts
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.tables import LOSSES
from lcm.methods import METHODS
from lcm.methods.config import MethodConfig, settings_of
from lcm.methods.objective import Objective
from lcm.methods.terms import TERMS
from lcm.methods.terms.build import build_terms, check_terms, read_terms
from lcm.methods.terms.term import Parts


def build_objective(
    config: MethodConfig,
    schedule: NoiseSchedule,
    loss: Loss | None = None,
    parts: Parts | None = None,
) -> Objective:
    """The loss that a resolved configuration names. `loss` replaces that of `loss_type`, for one
    that needs a loaded model; `parts` are those of loaded models that terms are built of.

    Raises ValueError for parts that do not fit.
    """
    settings, method = settings_of(config), METHODS[config.objective]
    distance = loss or LOSSES[settings.loss_type]
    alone = method.build(settings, schedule, distance)
    check_terms(settings.terms, config.objective, method, settings)
    terms = build_terms(settings.terms, settings, schedule, parts or Parts())
    if method.compares == "nothing" and all(term.start > 0 for term in terms):
        raise ValueError(
            f"objective {config.objective} has no loss before its terms begin; pass --dmd_start 0, "
            "or another term beside dmd"
        )
    return replace(alone, terms=terms, critic_updates=settings.critic_updates)


def reads_pictures(config: MethodConfig) -> bool:
    """Whether the loss of a resolved configuration looks at pictures of the data, or at those that
    the teacher draws for prompts alone.
    """
    settings = settings_of(config)
    terms = [TERMS[name] for name in read_terms(settings.terms)]
    compares = METHODS[config.objective].compares != "nothing"
    return compares or any(term.reads_pictures(settings) for term in terms)


def play_of(config: MethodConfig) -> Play:
    """How stock diffusers samples with what a resolved configuration trains."""
    return METHODS[config.objective].play(settings_of(config))


def make_recipe(config: MethodConfig, facts: TeacherFacts) -> Recipe:
    """The recipe of what a resolved configuration trains on this teacher."""
    settings, play = settings_of(config), play_of(config)
    overrides = {
        **play.scheduler_config,
        **UNCLIPPED,
        "rescale_betas_zero_snr": facts.zero_terminal_snr,
    }
    return Recipe.of(
        config.objective,
        replace(play, scheduler_config=overrides),
        facts,
        trained_guidance_scale=list(settings.guidance_range),
        guidance_scale=settings.play_guidance_scale,
    )
