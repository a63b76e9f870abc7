"""How to use what a run gives away: code for diffusers and for this toolkit, settings for other
programs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lcm.adapter.names import UNET_FOLDER, WEIGHTS_NAME
from lcm.adapter.recipe import Recipe
from lcm.config.run import TrainConfig
from lcm.models.single_file import is_single_file
from lcm.models.styles import (
    Style,
)

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
HERE = '"."'
"""How the code names the folder that it is run in, which is that of the files."""


def guidance_range(recipe: Recipe) -> str:
    low, high = recipe.trained_guidance_scale
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


# --- diffusers ------------------------------------------------------------------------------------


def written(value: Any) -> str:
    """As formatted Python code has it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def call_options(recipe: Recipe) -> str:
    """What a call passes besides prompt and size."""
    eta = f"\n    eta={recipe.eta:g}," if recipe.eta else ""
    return (
        f"num_inference_steps={recipe.usual_steps},\n    "
        f"guidance_scale={recipe.guidance_scale:g},{eta}"
    )


def teacher_call(recipe: Recipe, config: TrainConfig, more: str = "") -> str:
    """The call that loads the teacher, with `more` arguments."""
    method, pipeline = "from_pretrained", PIPELINES[recipe.family]
    if is_single_file(recipe.teacher):
        method = "from_single_file"
        more = f", config={written(config.base_config)}{more}" if config.base_config else more
    return f"{pipeline}.{method}({written(recipe.teacher)}{more})"


def loading(recipe: Recipe, config: TrainConfig) -> str:
    if config.full_finetune:
        unet = f'{HERE}, subfolder="{UNET_FOLDER}", dtype=torch.float32'
        return f"""unet = UNet2DConditionModel.from_pretrained({unet})
pipe = {teacher_call(recipe, config, ", unet=unet, dtype=torch.float32")}"""
    return f"""pipe = {teacher_call(recipe, config, ", dtype=torch.float32")}
pipe.load_lora_weights({HERE}, weight_name="{WEIGHTS_NAME}", adapter_name="lcm")"""


def snippet(recipe: Recipe, config: TrainConfig, prompt: str) -> str:
    """Python code that draws one picture with stock diffusers, to be run in the output folder."""
    overrides = "".join(
        f"    {name}={written(value)},\n" for name, value in sorted(recipe.scheduler_config.items())
    )
    imports = f"{recipe.scheduler}, {PIPELINES[recipe.family]}" + (
        ", UNet2DConditionModel" if config.full_finetune else ""
    )
    styles = "" if config.full_finetune else code_beside(config.styles)
    return f"""import torch
from diffusers import {imports}

{loading(recipe, config)}{styles}
pipe.scheduler = {recipe.scheduler}.from_config(
    pipe.scheduler.config,
{overrides})
image = pipe(
    {written(prompt)},
    {call_options(recipe)}
    height={recipe.resolution},
    width={recipe.resolution},
    generator=torch.Generator("cpu").manual_seed({config.validation_seed}),
).images[0]
image.save("image.png")"""


def with_style(full: bool) -> str:
    """What to add to `snippet` before its picture is drawn, to draw it in a style."""
    style = 'pipe.load_lora_weights("path/to/style.safetensors", adapter_name="style")'
    return (
        style
        if full
        else f'{style}\npipe.set_adapters(["lcm", "style"], adapter_weights=[1.0, 0.8])'
    )


# --- this toolkit ---------------------------------------------------------------------------------


def attaching(recipe: Recipe, config: TrainConfig) -> str:
    """What `lcm.attach` needs, from a stock pipeline on."""
    return f"""import lcm
from diffusers import {PIPELINES[recipe.family]}

pipe = {teacher_call(recipe, config)}
recipe = lcm.attach(pipe, {HERE})"""


# --- words ----------------------------------------------------------------------------------------


def guidance_advice(recipe: Recipe, w_embedding: bool) -> str:
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


def other_tools(recipe: Recipe, config: TrainConfig) -> str:
    """What ComfyUI and A1111 have to be set to."""
    if config.w_embedding:
        return "ComfyUI and A1111 cannot tell a U-Net its guidance scale: use diffusers."
    cfg = (
        f"{recipe.guidance_scale:g}" if max(recipe.trained_guidance_scale) == 1 else "1"
    )  # guidance in the weights needs none
    comfy, a1111 = SAMPLERS[recipe.scheduler]
    steps, settings = f"{recipe.usual_steps} steps", "scheduler `sgm_uniform`"
    load = (
        "Load Diffusion Model on the file in `unet/`"
        if config.full_finetune
        else "Load LoRA at strength 1"
    )
    lines = [f"ComfyUI: {load}, sampler {comfy}, {settings}, {steps}, cfg {cfg}."]
    if recipe.prediction_type == "v_prediction":
        zsnr = " and zsnr on" if recipe.zero_terminal_snr else ""
        lines[0] += (
            f" A ModelSamplingDiscrete node with `v_prediction`{zsnr} where the checkpoint does "
            "not say so."
        )
    grid = recipe.scheduler_config.get("original_inference_steps", 50)
    if grid != 50:
        lines[0] += f" ComfyUI assumes 50 solver steps; this adapter was trained on {grid}."
    if config.full_finetune:
        return f"{lines[0]}\n\nA1111 does not read a U-Net in this layout."
    lines.append(
        f"A1111: `<lora:pytorch_lora_weights:1>`, sampler {a1111}, schedule type SGM Uniform, "
        f"{steps}, CFG {cfg}."
    )
    return "\n\n".join(lines)


def advice(recipe: Recipe, config: TrainConfig) -> str:
    """The same with this toolkit and with other programs, in Markdown."""
    instead = "replaces the two lines after `from_pretrained`"
    if config.full_finetune:
        instead = "puts U-Net and scheduler into the teacher's own pipeline"
    return f"""With the toolkit that made it, `lcm.attach(pipe, {HERE})` {instead}.

{other_tools(recipe, config)}

{guidance_advice(recipe, config.w_embedding)}"""


def in_words(facts: Sequence[dict[str, Any]]) -> str:
    """Those of a recipe: ink.safetensors (weight 0.8) and oil.safetensors (weight 1)."""
    return " and ".join(f"{style['file']} (weight {style['weight']:g})" for style in facts)


def code_beside(styles: Sequence[Style]) -> str:
    """Further lines of Python that load styles into `pipe` beside an adapter named lcm, and set all
    weights, if there are any.
    """
    names = [f"style_{number}" for number in range(1, len(styles) + 1)]
    pairs = zip(styles, names, strict=True)
    lines = [
        f'\npipe.load_lora_weights({json.dumps(style.path)}, adapter_name="{name}")'
        for style, name in pairs
    ]
    weights = [1.0, *(style.weight for style in styles)]
    return (
        "".join([*lines, f"\npipe.set_adapters({json.dumps(['lcm', *names])}, {weights})"])
        if styles
        else ""
    )
