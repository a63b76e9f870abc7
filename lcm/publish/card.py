"""The model card of what a run gives away: front matter of the hub, code that runs, what was
trained and how, its limits.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path, PurePath

import yaml
from huggingface_hub import ModelCard, ModelCardData

from lcm.adapter.recipe import Recipe
from lcm.config.run import FREE_TO_CHANGE, PLACES, TrainConfig
from lcm.data.config import WHAT, chosen
from lcm.data.report import JSON_NAME
from lcm.methods import OBJECTIVES
from lcm.outputs.folder import CARD_NAME, PICTURE_NAME
from lcm.publish.usage import (
    HERE,
    attaching,
    guidance_advice,
    guidance_range,
    in_words,
    other_tools,
    snippet,
    with_style,
    written,
)
from lcm.system.atomic import replacing

IN_ITS_FOLDER = "To be run in the folder of this file:\n\n"

BESIDE_A_STYLE = (
    "A style LoRA beside it, before the picture is drawn; where the style comes out weak, raise "
    "its weight or lower the other:"
)


def public_name(name: str) -> str:
    """What a card calls a model or data set: a hub id as it is, of a folder its name alone, since
    paths name people.
    """
    return name if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) else PurePath(name).name


def on_the_hub(name: str | None) -> bool:
    """Whether a model or data set that was loaded by this name came from the hub."""
    return name is not None and not Path(name).exists() and public_name(name) == name


def write_card(output_dir: Path, recipe: Recipe, config: TrainConfig, prompts: list[str]) -> None:
    """Writes README.md into `output_dir`."""
    text = card_text(recipe, config, prompts, count_samples(output_dir))
    with replacing(output_dir / CARD_NAME) as partial:
        ModelCard(f"---\n{front_matter(recipe, config, prompts).to_yaml()}\n---\n\n{text}").save(
            partial
        )


def count_samples(output_dir: Path) -> int | None:
    """Those that the run was made with; None where the folder does not say."""
    path = output_dir / JSON_NAME
    return int(json.loads(path.read_text())["kept"]) if path.exists() else None


def front_matter(recipe: Recipe, config: TrainConfig, prompts: list[str]) -> ModelCardData:
    """What the hub reads. A teacher or data set that lies in a folder is not named: it would be
    taken for one of the hub.
    """
    base = recipe.teacher if on_the_hub(recipe.teacher) else None
    return ModelCardData(
        license=config.license,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=base,
        base_model_relation=None
        if base is None
        else "finetune"
        if config.full_finetune
        else "adapter",
        datasets=[str(config.dataset_name)] if on_the_hub(config.dataset_name) else None,
        tags=[
            "text-to-image",
            "stable-diffusion-xl" if recipe.family == "sdxl" else "stable-diffusion",
            *([] if config.full_finetune else ["lora"]),
            recipe.objective,
        ],
        inference=False,  # the hub's own would use neither the scheduler nor the number of steps
        widget=[{"text": prompt, "output": {"url": PICTURE_NAME}} for prompt in prompts[:1]],
    )


# --- what was trained -----------------------------------------------------------------------------


def training_table(recipe: Recipe, config: TrainConfig, samples: int | None) -> str:
    grid = f", grid of {config.num_ddim_timesteps}" if config.num_ddim_timesteps else ""
    solver = f"{config.solver}, {config.solver_steps} steps a pair"
    if config.solver_steps is None:
        solver = f"none: coupling {config.coupling}" if config.coupling else "none: no teacher"
    alpha = config.lora_alpha if config.lora_alpha is not None else config.lora_rank
    facts = {
        "teacher": f"`{public_name(recipe.teacher)}` ({recipe.prediction_type}"
        f"{', zero terminal SNR' if recipe.zero_terminal_snr else ''})",
        "extra teachers": ", ".join(f"`{public_name(path)}`" for path in recipe.extra_teachers)
        or None,
        "style LoRAs in the teacher": in_words(recipe.teacher_loras) or None,
        "guidance_scale of the teacher": guidance_range(recipe),
        "method": recipe.objective,
        "solver": solver + grid,
        "loss": f"{config.loss_type}{f', c = {config.huber_c:g}' if config.huber_c else ''}",
        "target": (config.target or "the teacher's own point")
        + (f", decay {config.ema_decay:g}" if config.target == "ema" else ""),
        "trained": "the whole U-Net"
        if config.full_finetune
        else f"LoRA, rank {config.lora_rank}, alpha {alpha:g}",
        "starts from": None
        if config.init_adapter is None
        else f"`{public_name(config.init_adapter)}`",
        "data": data_name(config) + ("" if samples is None else f", {samples} samples"),
        "updates": config.max_train_steps,
        "samples per update": (
            f"{config.train_batch_size} x {config.gradient_accumulation_steps} per process"
        ),
        "learning rate": f"{config.learning_rate:g}, {config.lr_scheduler}",
        "resolution": recipe.resolution,
        "precision": "float32" if config.mixed_precision == "no" else config.mixed_precision,
    }
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            *(f"| {name} | {fact} |" for name, fact in facts.items() if fact is not None),
        ]
    )


def data_name(config: TrainConfig) -> str:
    """Data on the hub by its name, else what kind it is."""
    return f"`{config.dataset_name}`" if on_the_hub(config.dataset_name) else WHAT[chosen(config)]


def settings(config: TrainConfig) -> str:
    """What differs from the method's defaults as a --config file, but for what names files and what
    is not of the training.
    """
    left_out = (FREE_TO_CHANGE | PLACES) - {"train_batch_size", "gradient_accumulation_steps"}
    changes = {
        name: value
        for name, value in config.changes().items()
        if name not in left_out and value is not None
    }
    return yaml.safe_dump(changes, sort_keys=True, allow_unicode=True).strip()


def limits(recipe: Recipe, config: TrainConfig) -> list[str]:
    """What is known to be out of reach, one sentence each."""
    steps, scheduler = ", ".join(map(str, recipe.num_inference_steps)), recipe.scheduler
    family = "SDXL" if recipe.family == "sdxl" else "Stable Diffusion 1.x and 2.x"
    what = "U-Net" if config.full_finetune else "adapter"
    sides = "other sizes and shapes were not trained"
    if config.aspect_ratio_buckets:
        sides = "shapes of about as many pixels were trained, other sizes were not"
    lines = [
        f"Made for {steps} steps with `{scheduler}` as it is set above; nothing else was tried.",
        (
            f"Fits {family} U-Nets with text width {recipe.cross_attention_dim} that predict "
            f"{recipe.prediction_type}; "
        )
        + (
            "it replaces one and cannot be scaled."
            if config.full_finetune
            else "others than the teacher's own were not tried."
        ),
        f"Trained at {recipe.resolution} x {recipe.resolution} pixels: {sides}.",
    ]
    if (
        recipe.guidance_scale == 1
        and not config.w_embedding
        and max(recipe.trained_guidance_scale) > 1
    ):
        lines.append(
            "Guidance is in the weights: it cannot be lowered, and at `guidance_scale=1` negative "
            "prompts do nothing."
        )
    if scheduler == "TCDScheduler":
        lines.append(
            f"`eta={recipe.eta:g}` belongs to how it is played; programs that cannot pass it play "
            "something else."
        )
    if recipe.injection:
        lines.append(
            "Stock schedulers play it without its own noise; "
            "`lcm.diffusion.sampling.sample_stochastic_flow` plays it as trained."
        )
    if OBJECTIVES[config.objective].experimental:
        lines.append(f"The method, {recipe.objective}, is experimental.")
    return [
        *lines,
        (
            "What the teacher and the training data lack or distort, this does too; their licences "
            "and terms of use apply."
        ),
        f"The run did not measure the quality of this {what}; the picture above is what there is.",
    ]


# --- the text -------------------------------------------------------------------------------------


def card_for_hub(text: str, repo_id: str, teacher: str) -> str:
    """A card as others are to read it: its code loads from the hub, and it names no folder of this
    machine.
    """
    # the configuration that a single file was loaded with
    text = re.sub(
        r'(?<=, config=)"(?:[^"\\\n]|\\.)*"',
        lambda found: written(public_name(json.loads(found[0]))),
        text,
    )
    return (
        text.replace(IN_ITS_FOLDER, "")
        .replace(HERE, f'"{repo_id}"')
        .replace(teacher, public_name(teacher))
    )


def with_toolkit(recipe: Recipe, config: TrainConfig) -> str:
    if config.full_finetune:  # the code above is all of it
        return ""
    return (
        "With the toolkit that made it, which sets the scheduler "
        f"too:\n\n```python\n{attaching(recipe, config)}\n```\n\n"
    )


def style_advice(recipe: Recipe, config: TrainConfig) -> str:
    """A paragraph where the teacher had style LoRAs."""
    if not recipe.teacher_loras:
        return ""
    how = "Load this adapter beside them, with these weights: so it was trained"
    if config.full_finetune:
        how = "They are part of this U-Net"
    return f"\n\nThe teacher had style LoRAs in it: {in_words(recipe.teacher_loras)}. {how}."


def card_text(
    recipe: Recipe, config: TrainConfig, prompts: list[str], samples: int | None = None
) -> str:
    teacher = public_name(recipe.teacher)
    shown = yaml.safe_dump(
        asdict(replace(recipe, teacher=teacher)), sort_keys=False, allow_unicode=True
    ).strip()
    title = (
        f"{recipe.objective.upper()}-{'U-Net' if config.full_finetune else 'LoRA'} of "
        f"{PurePath(teacher).name}"
    )
    what = (
        f"A U-Net that lets `{teacher}`"
        if config.full_finetune
        else f"An adapter that lets `{teacher}` and models fine-tuned from it"
    )
    columns = ", ".join(map(str, config.validation_num_steps))
    steps = ", ".join(map(str, recipe.num_inference_steps))
    rows = "\n".join(f"| {i + 1} | {prompt} |" for i, prompt in enumerate(prompts))
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "diffusers", "peft", "accelerate")
    )
    return f"""# {title}

{what} draw in {steps} steps.{style_advice(recipe, config)}

![Rows: prompts. Columns: {columns} steps.]({PICTURE_NAME})

## Use it with diffusers

{IN_ITS_FOLDER}```python
{snippet(recipe, config, prompts[0])}
```

{guidance_advice(recipe, config.w_embedding)}

{BESIDE_A_STYLE}

```python
{with_style(config.full_finetune)}
```

{with_toolkit(recipe, config)}## Use it with ComfyUI or A1111

{other_tools(recipe, config)}

## The picture

Every picture in `{PICTURE_NAME}` was drawn from this file, reloaded, with
`torch.Generator("cpu").manual_seed({config.validation_seed})`.
Columns: {columns} steps. Rows:

| row | prompt |
|---|---|
{rows}

## Training

{training_table(recipe, config, samples)}

What differs from the method's defaults:

```yaml
{settings(config)}
```

## Recipe

How it has to be played; it travels with the weights, and `lcm.attach` acts on it.

```yaml
{shown}
```

## Limitations

{chr(10).join(f"- {line}" for line in limits(recipe, config))}

Made with {libraries}.
"""
