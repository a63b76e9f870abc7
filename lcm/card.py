"""The model card of a finished adapter, with a snippet that runs."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from lcm.adapters import WEIGHTS_NAME
from lcm.config import TrainConfig
from lcm.recipe import Recipe

PIPELINES = {"sd": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


def write_card(output_dir: Path, recipe: Recipe, config: TrainConfig, prompts: list[str]) -> None:
    """Writes README.md into `output_dir`."""
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=None if Path(recipe.teacher).exists() else recipe.teacher,
        base_model_relation=None if Path(recipe.teacher).exists() else "adapter",
        tags=["text-to-image", "stable-diffusion-xl" if recipe.family == "sdxl" else "stable-diffusion", "lora", recipe.objective],
        widget=[{"text": prompt, "output": {"url": "images/grid.png"}} for prompt in prompts[:1]],
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{card_text(recipe, config, prompts)}").save(output_dir / "README.md")


def card_text(recipe: Recipe, config: TrainConfig, prompts: list[str]) -> str:
    low, high = recipe.trained_guidance_scale
    guidance = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    overrides = ", ".join(f"{name}={value!r}" for name, value in sorted(recipe.scheduler_config.items()))
    steps = ", ".join(map(str, recipe.num_inference_steps))
    rows = "\n".join(f"| {i + 1} | {prompt} |" for i, prompt in enumerate(prompts))
    grid = config.num_ddim_timesteps
    grid_note = "" if grid == 50 else f"ComfyUI assumes 50 solver steps; this adapter was trained on {grid}."
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "peft", "accelerate"))
    return f"""# {recipe.objective.upper()}-LoRA of {Path(recipe.teacher).name}

An adapter that lets `{recipe.teacher}` and models fine-tuned from it draw in {steps} steps, without guidance at inference.

![Rows: prompts. Columns: {", ".join(map(str, config.validation_num_steps))} steps.](images/grid.png)

## Use it with diffusers

```python
import torch
from diffusers import {recipe.scheduler}, {PIPELINES[recipe.family]}

pipe = {PIPELINES[recipe.family]}.from_pretrained({recipe.teacher!r}, dtype=torch.float32)
pipe.load_lora_weights(".", weight_name={WEIGHTS_NAME!r})  # the folder of this file
pipe.scheduler = {recipe.scheduler}.from_config(pipe.scheduler.config, {overrides})
image = pipe(
    {prompts[0]!r},
    num_inference_steps=4,
    guidance_scale={recipe.guidance_scale},
    height={recipe.resolution},
    width={recipe.resolution},
    generator=torch.Generator("cpu").manual_seed({config.validation_seed}),
).images[0]
image.save("image.png")
```

With the toolkit that made it, `lcm.attach(pipe, ".")` replaces the two lines after `from_pretrained`.

ComfyUI: sampler `lcm`, scheduler `sgm_uniform`, cfg 1. A1111: sampler LCM, CFG 1.
{grid_note}
Keep `guidance_scale` at {recipe.guidance_scale}: guidance of {guidance} is already in the weights.

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
| guidance_scale of the teacher | {guidance} |
| solver | {config.solver}, {config.num_ddim_timesteps} steps |
| loss | {config.loss_type}{"" if config.loss_type == "l2" else f", c = {config.huber_c:g}"} |
| target | {config.target}{f", decay {config.ema_decay:g}" if config.target == "ema" else ""} |
| LoRA | rank {config.lora_rank}, alpha {config.lora_alpha if config.lora_alpha is not None else config.lora_rank:g} |
| updates | {config.max_train_steps} |
| samples per update | {config.train_batch_size} x {config.gradient_accumulation_steps} per process |
| learning rate | {config.learning_rate:g}, {config.lr_scheduler} |
| resolution | {config.resolution} |

`config.yaml` beside this file holds every setting. Made with {libraries}.
"""
