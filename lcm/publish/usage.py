"""How to use what a run made: code for diffusers and for this toolkit, settings for other
programs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lcm.adapter.recipe import Recipe
from lcm.config.sections import TeacherConfig
from lcm.models.single_file import is_single_file
from lcm.models.styles import Style
from lcm.publish.wording import THIS_FOLDER, Wording

PIPELINES = {"sd": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
SAMPLERS = {
    "LCMScheduler": ("`lcm`", "LCM"),
    "TCDScheduler": (
        "TCD where a node for it is installed, else `lcm`",
        "TCD where it is installed, else LCM",
    ),
    "DDIMScheduler": ("`ddim`", "Euler"),
}
"""What ComfyUI and A1111 call the schedulers of recipes. A1111's own DDIM has leading timesteps,
whatever the schedule type.
"""


# --- diffusers ------------------------------------------------------------------------------------


def literal(value: Any) -> str:
    """A value as formatted Python code has it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def call_options(recipe: Recipe) -> str:
    """The arguments of a call besides prompt and size."""
    eta = f"\n    eta={recipe.eta:g}," if recipe.eta else ""
    return (
        f"num_inference_steps={recipe.usual_steps},\n    "
        f"guidance_scale={recipe.guidance_scale:g},{eta}"
    )


def teacher_call(recipe: Recipe, base_config: str | None, more: str = "") -> str:
    """The call that loads the teacher, with `more` arguments."""
    method, pipeline = "from_pretrained", PIPELINES[recipe.family]
    if is_single_file(recipe.teacher):
        method = "from_single_file"
        more = f", config={literal(base_config)}{more}" if base_config else more
    return f"{pipeline}.{method}({literal(recipe.teacher)}{more})"


def style_lines(styles: Sequence[Style]) -> str:
    """Further lines of Python that load styles into `pipe` beside an adapter named lcm, and set all
    weights, if there are any.
    """
    if not styles:
        return ""
    names = [f"style_{number}" for number in range(1, len(styles) + 1)]
    loads = "".join(
        f'\npipe.load_lora_weights({json.dumps(style.path)}, adapter_name="{name}")'
        for style, name in zip(styles, names, strict=True)
    )
    weights = [1.0, *(style.weight for style in styles)]
    return f"{loads}\npipe.set_adapters({json.dumps(['lcm', *names])}, {weights})"


def loading(recipe: Recipe, words: Wording, teacher: TeacherConfig) -> str:
    """The lines that load the teacher, the result, and the teacher's styles beside an adapter."""
    call = teacher_call(recipe, teacher.base_config, words.pipe_arguments)
    # a whole U-Net has the styles in its weights
    styles = [Style.parse(text) for text in teacher.teacher_lora] if words.is_adapter else []
    return f"{words.before_pipe}pipe = {call}{words.after_pipe}{style_lines(styles)}"


def snippet(recipe: Recipe, words: Wording, teacher: TeacherConfig, seed: int, prompt: str) -> str:
    """Python code that draws one picture with stock diffusers, to be run in the output folder."""
    overrides = "".join(
        f"    {name}={literal(value)},\n" for name, value in sorted(recipe.scheduler_config.items())
    )
    return f"""import torch
from diffusers import {recipe.scheduler}, {PIPELINES[recipe.family]}{words.extra_imports}

{loading(recipe, words, teacher)}
pipe.scheduler = {recipe.scheduler}.from_config(
    pipe.scheduler.config,
{overrides})
image = pipe(
    {literal(prompt)},
    {call_options(recipe)}
    height={recipe.resolution},
    width={recipe.resolution},
    generator=torch.Generator("cpu").manual_seed({seed}),
).images[0]
image.save("image.png")"""


# --- this toolkit ---------------------------------------------------------------------------------


def attaching(recipe: Recipe, base_config: str | None) -> str:
    """The lines that `lcm.attach` needs, from a stock pipeline on."""
    return f"""import lcm
from diffusers import {PIPELINES[recipe.family]}

pipe = {teacher_call(recipe, base_config)}
recipe = lcm.attach(pipe, {THIS_FOLDER})"""


def advice(recipe: Recipe, words: Wording, w_embedding: bool) -> str:
    """How to use the result with this toolkit and with other programs, in Markdown."""
    return f"""With the toolkit that made it, `lcm.attach(pipe, {THIS_FOLDER})` {words.attach}.

{other_tools(recipe, words, w_embedding)}

{guidance_advice(recipe, w_embedding)}"""


# --- words ----------------------------------------------------------------------------------------


def guidance_range(recipe: Recipe) -> str:
    """The guidance of training, such as "7.5" or "2 to 10"."""
    low, high = recipe.trained_guidance_scale
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def styles_in_words(facts: Sequence[dict[str, Any]]) -> str:
    """The style LoRAs of a recipe, such as "ink (weight 0.8) and oil (weight 1)"."""
    return " and ".join(f"{style['file']} (weight {style['weight']:g})" for style in facts)


def guidance_advice(recipe: Recipe, w_embedding: bool) -> str:
    """Which guidance_scale to pass, and why."""
    guidance = guidance_range(recipe)
    if w_embedding:
        return (
            f"`guidance_scale` is told to the U-Net, which was trained with {guidance}; it "
            "costs nothing."
        )
    if recipe.guidance_scale > 1:
        return (
            "This adapter leaves guidance to the pipeline: `guidance_scale` (try "
            f"{recipe.guidance_scale:g}) and negative prompts work as with the base model, at two "
            "network calls a step."
        )
    if max(recipe.trained_guidance_scale) == 1:
        return (
            f"Keep `guidance_scale` at {recipe.guidance_scale:g}: it was trained without guidance."
        )
    return (
        f"Keep `guidance_scale` at {recipe.guidance_scale:g}: guidance of {guidance} is already "
        "in the weights."
    )


def other_tools(recipe: Recipe, words: Wording, w_embedding: bool) -> str:
    """The settings of ComfyUI and A1111, in Markdown."""
    if w_embedding:
        return "ComfyUI and A1111 cannot tell a U-Net its guidance scale: use diffusers."
    # guidance that is in the weights must not be added once more
    cfg = f"{recipe.guidance_scale:g}" if max(recipe.trained_guidance_scale) == 1 else "1"
    sampler, a1111_sampler = SAMPLERS[recipe.scheduler]
    steps = recipe.usual_steps
    comfy = (
        f"ComfyUI: {words.comfy}, sampler {sampler}, scheduler `sgm_uniform`, {steps} steps, "
        f"cfg {cfg}.{comfy_limits(recipe)}"
    )
    return f"{comfy}\n\n{words.a1111.format(sampler=a1111_sampler, steps=steps, cfg=cfg)}"


def comfy_limits(recipe: Recipe) -> str:
    """Further sentences on ComfyUI, where its assumptions do not hold."""
    text = ""
    if recipe.prediction_type == "v_prediction":
        zsnr = " and zsnr on" if recipe.zero_terminal_snr else ""
        text += (
            f" A ModelSamplingDiscrete node with `v_prediction`{zsnr} where the checkpoint does "
            "not say so."
        )
    grid = recipe.scheduler_config.get("original_inference_steps", 50)
    if grid != 50:
        text += f" ComfyUI assumes 50 solver steps; this adapter was trained on {grid}."
    return text
