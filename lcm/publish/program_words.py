"""How ComfyUI and A1111 are set for a recipe, in the sentences of cards, reports and inspection."""

from __future__ import annotations

from lcm.adapter.names import SUFFIX
from lcm.adapter.recipe import Recipe
from lcm.outputs.folder import WORKFLOW_NAME
from lcm.publish.other_programs import (
    COMFY_GRID,
    ON_A_GRID,
    SAMPLERS,
    ComfySettings,
    clip_skip_of,
    comfy_settings,
    grid_of,
    sigma_words,
    single_file,
)
from lcm.system.text import code


def other_tools(recipe: Recipe, file: str | None, w_embedding: bool) -> str:
    """The settings of ComfyUI and A1111, in Markdown; `file` is that of an adapter, None for a
    whole U-Net.
    """
    settings = comfy_settings(recipe, w_embedding)
    if settings is None:
        return "ComfyUI and A1111 cannot tell a U-Net its guidance scale: use diffusers."
    workflow = (
        f"`{WORKFLOW_NAME}` has all of it, and so has a picture of the run: drop either on "
        "ComfyUI's window, and choose your checkpoint."
    )
    comfy, a1111 = played_by(recipe, settings, file)
    return f"{comfy} {workflow}\n\n{a1111}{about_chunks(recipe)}"


def played_by(recipe: Recipe, settings: ComfySettings, file: str | None) -> tuple[str, str]:
    """How ComfyUI and A1111 are set, a paragraph each."""
    return comfy_words(recipe, settings, file), a1111_words(recipe, settings, file)


def comfy_words(recipe: Recipe, settings: ComfySettings, file: str | None) -> str:
    """The settings of ComfyUI in a paragraph."""
    loads = "Load LoRA at strength 1" if file else "Load Diffusion Model on the file in `unet/`"
    node = ""
    if settings.sampling:
        zsnr = " and zsnr on" if settings.zsnr else ""
        node = f", ModelSamplingDiscrete with `{settings.sampling}`{zsnr}"
    sampler = f"`{settings.sampler}`"
    if recipe.scheduler == "TCDScheduler":
        sampler = f"TCD where a node for it is installed, else {sampler}"
    times = f"scheduler `{settings.scheduler}`, {settings.steps} steps"
    if settings.sigmas:
        times = f"SamplerCustom with ManualSigmas at `{sigma_words(settings.sigmas)}`"
    return " ".join(
        [
            f"ComfyUI: {loads}{node}, sampler {sampler}, {times}, cfg {settings.cfg:g}.",
            *(style_words(recipe) if file else []),
            *clip_words(settings),
            *settings.limits,
        ]
    )


def style_words(recipe: Recipe) -> list[str]:
    """The nodes of the styles that the teacher had, in a sentence."""
    return [
        f"Before this LoRA, load {code(single_file(style['file']))} at {style['weight']:g}."
        for style in recipe.teacher_loras
    ]


def clip_words(settings: ComfySettings) -> list[str]:
    """The node of a teacher that left layers of its text encoders out, in a sentence."""
    if settings.clip_layer is None:
        return []
    return [
        f"A node CLIP Set Last Layer with {settings.clip_layer} between the model and the prompts."
    ]


def a1111_clip_words(recipe: Recipe) -> str:
    """The same for A1111, which takes the usual layers of SDXL whatever is set."""
    if not clip_skip_of(recipe):
        return ""
    if recipe.family == "sdxl":
        return " It cannot leave out layers of SDXL's text encoders, which this was trained with."
    return f" Clip skip {clip_skip_of(recipe) + 1}."


def a1111_sampler(recipe: Recipe) -> str:
    """The name of A1111's sampler. Its LCM takes whatever a network predicts for epsilon; of those
    that know v, "Euler a" adds noise between steps as well.
    """
    if recipe.scheduler in ON_A_GRID and recipe.prediction_type != "epsilon":
        return "Euler a"
    return SAMPLERS[recipe.scheduler][1]


def a1111_limits(recipe: Recipe) -> str:
    """What A1111 does otherwise than the recipe says, in sentences with a space before each."""
    lines = ""
    if recipe.scheduler in ON_A_GRID and recipe.prediction_type != "epsilon":
        lines += (
            " Its sampler LCM is for epsilon and would draw noise; Euler a, with less noise "
            "between steps, is the nearest that it has."
        )
    elif recipe.scheduler in ON_A_GRID and grid_of(recipe) != COMFY_GRID:
        lines += (
            f" Its sampler LCM has {COMFY_GRID} solver steps; this was trained on "
            f"{grid_of(recipe)}."
        )
    if recipe.zero_terminal_snr:
        lines += " Its setting 'Noise schedule for sampling' must be Zero Terminal SNR."
    return lines


def a1111_words(recipe: Recipe, settings: ComfySettings, file: str | None) -> str:
    """The settings of A1111 in a paragraph."""
    if file is None:
        return "A1111 does not read a U-Net in this layout."
    if recipe.prediction_type not in ("epsilon", "v_prediction"):
        return f"A1111 has no sampler for a network of prediction type {recipe.prediction_type}."
    styles = [(single_file(style["file"]), style["weight"]) for style in recipe.teacher_loras]
    tags = " ".join(
        code(f"<lora:{name.removesuffix(SUFFIX)}:{weight:g}>")
        for name, weight in [(file, 1.0), *styles]
    )
    return (
        f"A1111: {tags}, sampler {a1111_sampler(recipe)}, schedule type SGM Uniform, "
        f"{settings.steps} steps, CFG {settings.cfg:g}.{a1111_limits(recipe)}"
        f"{a1111_clip_words(recipe)} A file that you rename has its new name in the prompt."
    )


def about_chunks(recipe: Recipe) -> str:
    """A further paragraph where prompts had several chunks."""
    if recipe.prompt_chunks == 1:
        return ""
    return (
        f"\n\nIt was trained with prompts of {recipe.prompt_chunks} chunks of 77 tokens. ComfyUI "
        "and A1111 cut long prompts into chunks by themselves; diffusers takes them as "
        "`prompt_embeds`, which the package `compel` makes."
    )
