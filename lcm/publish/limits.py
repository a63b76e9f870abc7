"""What is known to be out of a result's reach, for its card."""

from __future__ import annotations

from lcm.adapter.recipe import Recipe
from lcm.config.sections import AdapterConfig
from lcm.data.config import SampleConfig
from lcm.inference.schedulers import FEW_STEP
from lcm.methods import METHODS
from lcm.publish.wording import Wording
from lcm.system.text import code


def steps_in_words(recipe: Recipe) -> str:
    """The numbers of steps that it was made for, such as "1, 2, 4"."""
    return ", ".join(map(str, recipe.num_inference_steps))


def limits(
    recipe: Recipe,
    words: Wording,
    adapter: AdapterConfig,
    samples: SampleConfig,
    has_picture: bool = True,
) -> list[str]:
    """What is known to be out of reach, one sentence each."""
    family = "SDXL" if recipe.family == "sdxl" else "Stable Diffusion 1.x and 2.x"
    sides = "other sizes and shapes were not trained"
    if samples.aspect_ratio_buckets:
        sides = "shapes of about as many pixels were trained, other sizes were not"
    return [
        (
            f"Made for {steps_in_words(recipe)} steps with `{recipe.scheduler}` as it is set above;"
            " nothing else was tried."
        ),
        (
            f"Fits {family} U-Nets with text width {recipe.cross_attention_dim} that predict "
            f"{recipe.prediction_type}; {words.fits}"
        ),
        f"Trained at {recipe.resolution} x {recipe.resolution} pixels: {sides}.",
        *method_limits(recipe, adapter.w_embedding, bool(samples.proportion_empty_prompts)),
        (
            "What the teacher and the training data lack or distort, this does too; their licences "
            "and terms of use apply."
        ),
        (
            f"The run did not measure the quality of this {words.noun}; "
            + ("the picture above is what there is." if has_picture else "nor did it draw with it.")
        ),
    ]


def method_limits(recipe: Recipe, w_embedding: bool, drops: bool = False) -> list[str]:
    """The limits that come from the method, one sentence each. `drops` is whether empty prompts
    taught the half which guidance leads away from.
    """
    lines = []
    in_weights = recipe.guidance_scale == 1 and max(recipe.trained_guidance_scale) > 1
    if in_weights and not w_embedding:
        lines.append(
            "Guidance is in the weights: it cannot be lowered, and at `guidance_scale=1` negative "
            f"prompts do nothing{'; above it they do' if drops else ''}."
        )
    if recipe.scheduler == "TCDScheduler":
        lines.append(
            f"`eta={recipe.eta:g}` belongs to how it is played; programs that cannot pass it play "
            "something else. The last step of `TCDScheduler` leaves the noise of timestep 0, 3 %."
        )
    plays_times = recipe.scheduler in FEW_STEP  # DDIMScheduler takes none
    if recipe.first_timestep is not None:
        first, usual = recipe.first_timestep, recipe.usual_steps
        several = f", `{recipe.usual_call()['timesteps']}` for {usual}" if usual > 1 else ""
        lines.append(
            f"Play begins at timestep {first}: `lcm.attach` sees to it, and other calls need their "
            f"`timesteps`, `[{first}]` for a single step{several}."
        )
    elif plays_times and recipe.prediction_type == "epsilon" and 1 in recipe.num_inference_steps:
        lines.append(
            "In a single step on another model than it was distilled from, begin below the last "
            "timestep: `timesteps=[699]` in the place of `num_inference_steps=1`."
        )
    if recipe.injection:
        lines.append(
            "Stock schedulers play it without its own noise; "
            "`lcm.diffusion.sampling.sample_stochastic_flow` plays it as trained."
        )
    if METHODS[recipe.objective].experimental:
        lines.append(f"The method, {code(recipe.objective)}, is experimental.")
    return lines
