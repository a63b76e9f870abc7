"""The model card of a run's result: front matter for the hub, code that runs, what was trained and
how, its limits. The text is the template card.md beside this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from lcm.adapter.recipe import Recipe
from lcm.config.output_sections import HubConfig
from lcm.config.run import TrainConfig
from lcm.config.sections import AdapterConfig
from lcm.data.config import DataConfig, SampleConfig
from lcm.data.report import JSON_NAME
from lcm.methods import METHODS
from lcm.outputs.folder import CARD_NAME, PICTURE_NAME
from lcm.publish.public_names import on_the_hub, public_name
from lcm.publish.training_facts import (
    data_facts,
    loop_facts,
    method_facts,
    result_facts,
    settings_text,
    teacher_facts,
)
from lcm.publish.usage import (
    attaching,
    guidance_advice,
    literal,
    other_tools,
    snippet,
    styles_in_words,
)
from lcm.publish.wording import THIS_FOLDER, Wording, title, wording
from lcm.system.atomic import replacing

RUN_HERE = "To be run in the folder of this file:\n\n"
LIBRARIES = ("torch", "diffusers", "peft", "accelerate")


def write_card(
    output_dir: Path,
    recipe: Recipe,
    config: TrainConfig,
    settings: dict[str, Any],
    prompts: Sequence[str],
) -> None:
    """Writes README.md into `output_dir`. `settings` are the flat ones, as the run resolved them;
    `prompts` are the rows of the picture.
    """
    words = wording(config.adapter)
    facts = front_matter(recipe, words, config.data, config.hub, prompts).to_yaml()
    text = card_text(recipe, config, settings, prompts, count_samples(output_dir))
    with replacing(output_dir / CARD_NAME) as partial:
        ModelCard(f"---\n{facts}\n---\n\n{text}").save(partial)


def count_samples(output_dir: Path) -> int | None:
    """The number of samples that the run was made with; None where the folder does not say."""
    path = output_dir / JSON_NAME
    return int(json.loads(path.read_text())["kept"]) if path.exists() else None


def front_matter(
    recipe: Recipe, words: Wording, data: DataConfig, hub: HubConfig, prompts: Sequence[str]
) -> ModelCardData:
    """The facts that the hub reads. A teacher or data set that lies in a folder is not named: it
    would be taken for one of the hub.
    """
    base = recipe.teacher if on_the_hub(recipe.teacher) else None
    return ModelCardData(
        license=hub.license,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=base,
        base_model_relation=None if base is None else words.hub_relation,
        datasets=[str(data.dataset_name)] if on_the_hub(data.dataset_name) else None,
        tags=[
            "text-to-image",
            "stable-diffusion-xl" if recipe.family == "sdxl" else "stable-diffusion",
            *words.hub_tags,
            recipe.objective,
        ],
        inference=False,  # the hub's own would use neither the scheduler nor the number of steps
        widget=[{"text": prompt, "output": {"url": PICTURE_NAME}} for prompt in prompts[:1]],
    )


# --- the text -------------------------------------------------------------------------------------


def template() -> Template:
    """The text of the card. It is Markdown: nothing that is put into it is escaped."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template("card.md")


def card_text(
    recipe: Recipe,
    config: TrainConfig,
    settings: dict[str, Any],
    prompts: Sequence[str],
    samples: int | None = None,
) -> str:
    """The card without its front matter; the parameters are those of `write_card`."""
    words, teacher = wording(config.adapter), public_name(recipe.teacher)
    w_embedding, seed = config.adapter.w_embedding, config.validation.validation_seed
    facts = {
        **teacher_facts(recipe),
        **method_facts(config.method),
        **result_facts(config.adapter, words),
        **data_facts(config.data, samples),
        **loop_facts(config.loop, config.optimizer, settings["max_train_steps"], recipe.resolution),
    }
    return template().render(
        title=title(recipe, words),
        purpose=words.purpose.format(teacher=teacher),
        steps=steps_in_words(recipe),
        styles=styles_in_words(recipe.teacher_loras),
        words=words,
        columns=", ".join(map(str, config.validation.validation_num_steps)),
        picture=PICTURE_NAME,
        run_here=RUN_HERE,
        snippet=snippet(recipe, words, config.teacher, seed, prompts[0]),
        guidance_advice=guidance_advice(recipe, w_embedding),
        attaching=attaching(recipe, config.teacher.base_config),
        other_tools=other_tools(recipe, words, w_embedding),
        seed=seed,
        prompts=prompts,
        facts=facts,
        changes=settings_text(config.changes(settings)),
        recipe=recipe_text(replace(recipe, teacher=teacher)),
        limits=limits(recipe, words, config.adapter, config.samples),
        libraries=", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    )


def steps_in_words(recipe: Recipe) -> str:
    """The numbers of steps that it was made for, such as "1, 2, 4"."""
    return ", ".join(map(str, recipe.num_inference_steps))


def recipe_text(recipe: Recipe) -> str:
    """A recipe as YAML, in the order of its fields."""
    return yaml.safe_dump(asdict(recipe), sort_keys=False, allow_unicode=True).strip()


def limits(
    recipe: Recipe, words: Wording, adapter: AdapterConfig, samples: SampleConfig
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
        *method_limits(recipe, adapter.w_embedding),
        (
            "What the teacher and the training data lack or distort, this does too; their licences "
            "and terms of use apply."
        ),
        (
            f"The run did not measure the quality of this {words.noun}; the picture above is what "
            "there is."
        ),
    ]


def method_limits(recipe: Recipe, w_embedding: bool) -> list[str]:
    """The limits that come from the method, one sentence each."""
    lines = []
    in_weights = recipe.guidance_scale == 1 and max(recipe.trained_guidance_scale) > 1
    if in_weights and not w_embedding:
        lines.append(
            "Guidance is in the weights: it cannot be lowered, and at `guidance_scale=1` negative "
            "prompts do nothing."
        )
    if recipe.scheduler == "TCDScheduler":
        lines.append(
            f"`eta={recipe.eta:g}` belongs to how it is played; programs that cannot pass it play "
            "something else."
        )
    if recipe.injection:
        lines.append(
            "Stock schedulers play it without its own noise; "
            "`lcm.diffusion.sampling.sample_stochastic_flow` plays it as trained."
        )
    if METHODS[recipe.objective].experimental:
        lines.append(f"The method, {recipe.objective}, is experimental.")
    return lines


# --- for others -----------------------------------------------------------------------------------


def card_for_hub(text: str, repo_id: str, teacher: str) -> str:
    """A card as others are to read it: its code loads from the hub, and it names no folder of this
    machine.
    """
    # the configuration that a single file was loaded with
    text = re.sub(
        r'(?<=, config=)"(?:[^"\\\n]|\\.)*"',
        lambda found: literal(public_name(json.loads(found[0]))),
        text,
    )
    return (
        text.replace(RUN_HERE, "")
        .replace(THIS_FOLDER, f'"{repo_id}"')
        .replace(teacher, public_name(teacher))
    )
