"""The model card of a run's result: front matter for the hub, code that runs, what was trained and
how, its limits. The text is the template card.md beside this file.

A card is kept as data beside its text, in card.json, so that it can be written for others too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from lcm.adapter.recipe import Recipe
from lcm.config.output_sections import ValidationConfig
from lcm.config.run import TrainConfig
from lcm.outputs.folder import CARD_DATA_NAME, CARD_NAME, PICTURE_NAME
from lcm.publish.code import Code, Models, View, view_from_here, view_of_others
from lcm.publish.limits import limits, steps_in_words
from lcm.publish.outcome import Outcome
from lcm.publish.program_words import other_tools
from lcm.publish.training_facts import (
    data_facts,
    effort_facts,
    loop_facts,
    method_facts,
    result_facts,
    settings_text,
    teacher_facts,
)
from lcm.publish.usage import guidance_advice, styles_in_words
from lcm.publish.wording import Wording, title, wording
from lcm.system.atomic import replacing
from lcm.system.json_input import field, read_object
from lcm.system.paths import write_text
from lcm.system.public_names import on_the_hub, public_name
from lcm.system.text import code, count, fenced, markdown, plain, prompt_words, visible

NOTHING_KNOWN = Outcome()
LIBRARIES = ("torch", "diffusers", "peft", "accelerate")
WRITE_ANEW = (
    f"remove {CARD_NAME} and give the command of the run once more: it trains no further and "
    "writes both anew"
)


@dataclass(frozen=True)
class Card:
    """A card as data: `front` is its front matter, `texts` what every reader gets, as Markdown, and
    `made` the code, which names models as the reader knows them. `folder` is the one that it was
    written for, which may have moved since.
    """

    front: dict[str, Any]
    texts: dict[str, Any]
    made: Code
    folder: str

    def write(self) -> None:
        """Writes card.json, and then README.md for this machine."""
        texts = {CARD_DATA_NAME: self.to_json(), CARD_NAME: self.render_here()}
        for name, text in texts.items():
            with replacing(Path(self.folder, name)) as partial:
                write_text(partial, text)

    def render_here(self) -> str:
        """The text for this machine, as it was written."""
        return self.render(view_from_here(self.folder))

    def view_of_others(self, repo_id: str) -> View:
        """That of anybody who has the repository of the hub."""
        return view_of_others(repo_id, self.made.models)

    def render(self, view: View) -> str:
        """The text for a reader. It has the same lines for all, but for the names in code."""
        attaching = fenced(self.made.attaching(view), "python") if self.made.file else None
        body = template().render(
            **self.texts,
            where=view.where,
            snippet=fenced(self.made.snippet(view), "python"),
            attaching=attaching,
        )
        front = yaml.safe_dump(self.front, sort_keys=False, allow_unicode=True)
        return f"---\n{front}---\n\n{body}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, output_dir: Path) -> Card:
        """The card of a finished run. Raises ValueError, or FileNotFoundError for a folder that has
        none.
        """
        path = output_dir / CARD_DATA_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{output_dir} holds no {CARD_DATA_NAME}, of which {CARD_NAME} is made for others; "
                f"pass the output_dir of a finished run, or where an earlier version made it, "
                f"{WRITE_ANEW}"
            )
        values = read_object(path, WRITE_ANEW)
        for name, kind in (("front", dict), ("texts", dict), ("made", dict), ("folder", str)):
            field(values, name, kind, str(path), WRITE_ANEW)
        try:
            made = {**values["made"]}
            made["recipe"] = Recipe(**made["recipe"])
            made["models"] = Models.from_dict(made["models"])
            return cls(values["front"], values["texts"], Code(**made), str(values["folder"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error!r}); {WRITE_ANEW}") from error


def write_card(
    output_dir: Path,
    recipe: Recipe,
    config: TrainConfig,
    settings: dict[str, Any],
    prompts: Sequence[str],
) -> None:
    """Writes README.md into `output_dir`, and before it card.json. `settings` are the flat ones,
    as the run resolved them; `prompts` are the rows of the picture.
    """
    card = make_card(recipe, config, settings, prompts, Outcome.read(output_dir))
    replace(card, folder=str(output_dir.absolute())).write()


def front_matter(
    recipe: Recipe, words: Wording, config: TrainConfig, prompts: Sequence[str]
) -> ModelCardData:
    """The facts that the hub reads. A teacher or data set that lies in a folder is not named: it
    would be taken for one of the hub.
    """
    data, hub = config.data, config.hub
    base = config.teacher.path if on_the_hub(config.teacher.path) else None
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
        widget=[{"text": plain(text), "output": {"url": PICTURE_NAME}} for text in prompts[:1]]
        if config.validation.draws
        else None,
    )


# --- the text -------------------------------------------------------------------------------------


@cache
def template() -> Template:
    """The text of the card. What is put into it is Markdown already: nothing is escaped here."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template("card.md")


def make_card(
    recipe: Recipe,
    config: TrainConfig,
    settings: dict[str, Any],
    prompts: Sequence[str],
    outcome: Outcome = NOTHING_KNOWN,
) -> Card:
    """The card; the parameters are those of `write_card`."""
    words = wording(config.adapter)
    file = config.output.weights_file if words.is_adapter else None
    made = Code(
        recipe=recipe.public(),
        models=Models.of(config.teacher),
        file=file,
        seed=config.validation.validation_seed,
        prompt=prompts[0],
    )
    texts = card_texts(made, words, config, settings, prompts, outcome)
    front = visible(front_matter(recipe, words, config, prompts).to_dict())
    return Card(front, texts, made, str(config.output.folder.absolute()))


def card_texts(
    made: Code,
    words: Wording,
    config: TrainConfig,
    settings: dict[str, Any],
    prompts: Sequence[str],
    outcome: Outcome,
) -> dict[str, Any]:
    """What every reader of a card gets, as Markdown, by its name in the template."""
    recipe, w_embedding = made.recipe, config.adapter.w_embedding
    teacher = public_name(config.teacher.path)
    facts = {
        **teacher_facts(recipe, teacher),
        **method_facts(config.method),
        **result_facts(config.adapter, words),
        **data_facts(config.data, outcome.samples),
        **loop_facts(config.loop, config.optimizer, settings["max_train_steps"], recipe.resolution),
        **effort_facts(outcome),
    }
    return {
        "title": markdown(title(recipe, words)),
        "purpose": words.purpose.format(teacher=code(teacher)),
        "steps": steps_in_words(recipe),
        "styles": styles_in_words(recipe.teacher_loras),
        "about_styles": words.styles,
        "with_style": fenced(made.with_style(), "python"),
        "columns": columns_in_words(config.validation),
        "picture": PICTURE_NAME if config.validation.draws else None,
        "guidance_advice": guidance_advice(recipe, w_embedding),
        "other_tools": other_tools(recipe, made.file, w_embedding),
        "seed": made.seed,
        "prompts": [markdown(prompt_words(prompt)) for prompt in prompts],
        "numbers": [list(row) for row in outcome.numbers] if config.validation.draws else [],
        "seeds": count(config.validation.measured_images, "seed"),
        "facts": [[name, fact] for name, fact in facts.items() if fact is not None],
        "changes": fenced(settings_text(config.changes(settings)), "yaml"),
        "recipe": fenced(recipe_text(recipe), "yaml"),
        "limits": limits(recipe, words, config.adapter, config.samples, config.validation.draws),
        "giving_away": giving_away(made.file, config.validation.draws),
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    }


def columns_in_words(validation: ValidationConfig) -> str:
    """The columns of the picture, by inference steps."""
    students = ", ".join(map(str, validation.validation_num_steps))
    theirs = validation.validation_teacher_steps
    return f"the teacher's {theirs}, then {students}" if theirs else students


def giving_away(file: str | None, has_picture: bool) -> str:
    """Where others get it from."""
    what = "this card, the picture" if has_picture else "this card"
    on_the_hub = f"On the hub: `lcm push` uploads weights, {what} and the workflow."
    if file is None:
        return on_the_hub
    return (
        f"{on_the_hub} Elsewhere, such as on Civitai: upload {code(file)} as a LoRA, with "
        f"{f'`{PICTURE_NAME}`' if has_picture else 'a picture of it'}, and name its base model."
    )


def recipe_text(recipe: Recipe) -> str:
    """A recipe as YAML, in the order of its fields."""
    return yaml.safe_dump(visible(asdict(recipe)), sort_keys=False, allow_unicode=True).strip()
