"""Writes what a run writes beside its adapter, for the bundled one: its card, whose code is for the
folder of the repository, its ComfyUI workflow, and the picture that carries it.

    python -m examples.shapes.card
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import lcm
from lcm.config.command_line import parse_config
from lcm.inference.schedulers import teacher_scheduler
from lcm.outputs.folder import CARD_NAME, PICTURE_NAME
from lcm.publish.card import Card, make_card
from lcm.publish.code import View
from lcm.publish.comfyui import workflow_files, write_workflow
from lcm.system.image_grid import draw_labelled, fitting, save_png
from lcm.system.text import count

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "lcm_lora"
PROMPTS = [
    "a red circle on a black background",
    "a cyan square on a black background",
    "a red star on a black background",
    "a cyan cross on a black background",
]
"""The rows of its picture: captions of the data, by which the run that made it was validated."""
WHERE = "It runs in the folder of the repository:"


def bundled() -> tuple[Card, dict[str, str]]:
    """The card, and the workflow as the picture holds it."""
    config = parse_config(["--config", str(FOLDER / "config.yaml")])
    recipe = lcm.read_recipe(FOLDER)
    card = make_card(recipe, config, config.flat(), PROMPTS)
    return card, workflow_files(recipe, config, PROMPTS[0])


def text() -> str:
    """The card for readers of the repository."""
    card, _ = bundled()
    result = FOLDER.relative_to(ROOT).as_posix()
    teacher = f"{FOLDER.parent.relative_to(ROOT).as_posix()}/{card.made.models.teacher.public}"
    return card.render(View(lambda _: teacher, result, WHERE))


@torch.no_grad()
def draw() -> Image.Image:
    """Its picture, as a run draws it: the teacher's pictures first, all of a row from one noise."""
    config = parse_config(["--config", str(FOLDER / "config.yaml")])
    pipe = StableDiffusionPipeline.from_pretrained(FOLDER.parent / "teacher", use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    seed, side = config.validation.validation_seed, lcm.read_recipe(FOLDER).resolution

    def pictures(steps: int, guidance: float) -> list[Image.Image]:
        generators = [torch.Generator("cpu").manual_seed(seed) for _ in PROMPTS]
        options = {"height": side, "width": side, "generator": generators}
        calls = pipe(PROMPTS, num_inference_steps=steps, guidance_scale=guidance, **options)
        return list(calls.images)

    few, many = config.validation.validation_num_steps, config.validation.validation_teacher_steps
    own, pipe.scheduler = pipe.scheduler, teacher_scheduler(pipe.scheduler.config)
    columns = [pictures(many, lcm.read_recipe(FOLDER).teacher_guidance(told=False))]
    pipe.scheduler = own
    recipe = lcm.attach(pipe, FOLDER)
    columns += [pictures(steps, recipe.guidance_scale) for steps in few]
    heads = [f"teacher, {count(many, 'step')}", *(count(steps, "step") for steps in few)]
    cells = [picture for row in zip(*columns, strict=True) for picture in row]
    size = fitting((side, side), len(PROMPTS), len(heads))
    title = f"LCM-LoRA of teacher after {config.loop.max_train_steps} updates, seed {seed}"
    return draw_labelled(cells, size, PROMPTS, heads, title=title, apart=1)


def main() -> None:
    _, workflow = bundled()
    (FOLDER / CARD_NAME).write_text(text(), encoding="utf-8", newline="\n")
    write_workflow(FOLDER, workflow)
    save_png(draw(), FOLDER / PICTURE_NAME, chunks=workflow)


if __name__ == "__main__":
    main()
