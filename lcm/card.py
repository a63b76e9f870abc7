"""The model card of a finished adapter, with a snippet that runs."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from lcm.adapters import WEIGHTS_NAME
from lcm.config import TrainConfig
from lcm.disk import replacing
from lcm.recipe import Recipe

CARD_NAME = "README.md"
PIPELINES = {"sd": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


def write_card(output_dir: Path, recipe: Recipe, config: TrainConfig, prompts: list[str]) -> None:
    """Writes README.md into `output_dir`."""
    is_local = Path(recipe.teacher).exists()
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=None if is_local else recipe.teacher,
        base_model_relation=None if is_local else "finetune" if config.full_finetune else "adapter",
        tags=[
            "text-to-image",
            "stable-diffusion-xl" if recipe.family == "sdxl" else "stable-diffusion",
            *([] if config.full_finetune else ["lora"]),
            recipe.objective,
        ],
        widget=[{"text": prompt, "output": {"url": "images/grid.png"}} for prompt in prompts[:1]],
    )
    with replacing(output_dir / CARD_NAME) as partial:
        ModelCard(f"---\n{data.to_yaml()}\n---\n\n{card_text(recipe, config, prompts)}").save(partial)


def call_options(recipe: Recipe) -> str:
    """What a call passes besides prompt and size."""
    eta = f"\n    eta={recipe.eta:g}," if recipe.eta else ""
    return f"num_inference_steps={recipe.usual_steps},\n    guidance_scale={recipe.guidance_scale:g},{eta}"


def guidance_advice(recipe: Recipe, guidance: str, w_embedding: bool) -> str:
    if w_embedding:
        return f"`guidance_scale` is told to the U-Net, which was trained with {guidance}; it costs nothing."
    if recipe.guidance_scale > 1:
        return (
            f"This adapter leaves guidance to the pipeline: `guidance_scale` (try {recipe.guidance_scale:g}) and negative prompts "
            "work as with the base model, at two network calls a step."
        )
    return f"Keep `guidance_scale` at {recipe.guidance_scale:g}: guidance of {guidance} is already in the weights."


def other_tools(recipe: Recipe, grid: int) -> str:
    """What ComfyUI and A1111 have to be set to."""
    cfg = f"{recipe.guidance_scale:g}" if max(recipe.trained_guidance_scale) == 1 else "1"  # guidance in the weights needs none
    if recipe.scheduler == "DDIMScheduler":
        return f"ComfyUI: sampler `ddim`, scheduler `sgm_uniform`, cfg {cfg}. A1111: sampler DDIM, CFG {cfg}."
    if recipe.scheduler == "TCDScheduler":
        return f"ComfyUI: sampler `lcm` or a TCD node, scheduler `sgm_uniform`, cfg {cfg}. A1111: sampler TCD, CFG {cfg}."
    note = "" if grid == 50 else f"\nComfyUI assumes 50 solver steps; this adapter was trained on {grid}."
    return f"ComfyUI: sampler `lcm`, scheduler `sgm_uniform`, cfg {cfg}. A1111: sampler LCM, CFG {cfg}.{note}"


def loading(recipe: Recipe, full: bool) -> str:
    pipeline, teacher = PIPELINES[recipe.family], recipe.teacher
    if full:
        return f"""# "." is the folder of this file
unet = UNet2DConditionModel.from_pretrained(".", subfolder="unet", dtype=torch.float32)
pipe = {pipeline}.from_pretrained({teacher!r}, unet=unet, dtype=torch.float32)"""
    return f"""pipe = {pipeline}.from_pretrained({teacher!r}, dtype=torch.float32)
pipe.load_lora_weights(".", weight_name={WEIGHTS_NAME!r})  # the folder of this file"""


def snippet(recipe: Recipe, config: TrainConfig, prompt: str) -> str:
    """Python code that draws one picture with stock diffusers, to be run in the output folder."""
    overrides = ", ".join(f"{name}={value!r}" for name, value in sorted(recipe.scheduler_config.items()))
    imports = f"{recipe.scheduler}, {PIPELINES[recipe.family]}" + (", UNet2DConditionModel" if config.full_finetune else "")
    return f"""import torch
from diffusers import {imports}

{loading(recipe, config.full_finetune)}
pipe.scheduler = {recipe.scheduler}.from_config(pipe.scheduler.config, {overrides})
image = pipe(
    {prompt!r},
    {call_options(recipe)}
    height={recipe.resolution},
    width={recipe.resolution},
    generator=torch.Generator("cpu").manual_seed({config.validation_seed}),
).images[0]
image.save("image.png")"""


def guidance_range(recipe: Recipe) -> str:
    low, high = recipe.trained_guidance_scale
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def advice(recipe: Recipe, config: TrainConfig) -> str:
    """The same with this toolkit and with other tools, in Markdown."""
    attaching = "replaces the two lines after `from_pretrained`"
    if config.full_finetune:
        attaching = "puts U-Net and scheduler into the teacher's own pipeline"
    return f"""With the toolkit that made it, `lcm.attach(pipe, ".")` {attaching}.

{other_tools(recipe, config.num_ddim_timesteps or 50)}
{guidance_advice(recipe, guidance_range(recipe), config.w_embedding)}"""


def card_text(recipe: Recipe, config: TrainConfig, prompts: list[str]) -> str:
    steps = ", ".join(map(str, recipe.num_inference_steps))
    rows = "\n".join(f"| {i + 1} | {prompt} |" for i, prompt in enumerate(prompts))
    grid = config.num_ddim_timesteps or 50
    kind = "U-Net" if config.full_finetune else "LoRA"
    solver = f"{config.solver}, {config.solver_steps} steps a pair"
    if config.solver_steps is None:
        solver = f"none: coupling {config.coupling}" if config.coupling else "none: no teacher"
    solver += f", grid of {grid}" if config.num_ddim_timesteps else ""
    trained = (
        "the whole U-Net"
        if config.full_finetune
        else (f"LoRA, rank {config.lora_rank}, alpha {config.lora_alpha if config.lora_alpha is not None else config.lora_rank:g}")
    )
    what = f"An adapter that lets `{recipe.teacher}` and models fine-tuned from it"
    if config.full_finetune:
        what = f"A U-Net that lets `{recipe.teacher}`"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "peft", "accelerate"))
    return f"""# {recipe.objective.upper()}-{kind} of {Path(recipe.teacher).name}

{what} draw in {steps} steps.

![Rows: prompts. Columns: {", ".join(map(str, config.validation_num_steps))} steps.](images/grid.png)

## Use it with diffusers

```python
{snippet(recipe, config, prompts[0])}
```

{advice(recipe, config)}

## The picture

Every picture in `images/grid.png` was drawn from this file, reloaded, with
`torch.Generator("cpu").manual_seed({config.validation_seed})`.
Columns: {", ".join(map(str, config.validation_num_steps))} steps. Rows:

| row | prompt |
|---|---|
{rows}

## Training

| | |
|---|---|
| teacher | `{recipe.teacher}` ({recipe.prediction_type}{", zero terminal SNR" if recipe.zero_terminal_snr else ""}) |
| guidance_scale of the teacher | {guidance_range(recipe)} |
| method | {recipe.objective} |
| solver | {solver} |
| loss | {config.loss_type}{f", c = {config.huber_c:g}" if config.huber_c else ""} |
| target | {config.target or "the teacher's own point"}{f", decay {config.ema_decay:g}" if config.target == "ema" else ""} |
| trained | {trained} |
| updates | {config.max_train_steps} |
| samples per update | {config.train_batch_size} x {config.gradient_accumulation_steps} per process |
| learning rate | {config.learning_rate:g}, {config.lr_scheduler} |
| resolution | {config.resolution} |

`config.yaml` beside this file holds every setting. Made with {libraries}.
"""
