"""Writes what a run writes beside its adapter, for the bundled one: its card, whose code is for the
folder of the repository, its ComfyUI workflow, and the picture that carries it.

    python -m examples.shapes.card
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import lcm
from lcm.config.command_line import parse_config
from lcm.outputs.folder import CARD_NAME, PICTURE_NAME
from lcm.publish.card import Card, make_card
from lcm.publish.code import View
from lcm.publish.comfyui import workflow_files, write_workflow
from lcm.system.image_grid import save_png

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


def main() -> None:
    _, workflow = bundled()
    (FOLDER / CARD_NAME).write_text(text(), encoding="utf-8", newline="\n")
    write_workflow(FOLDER, workflow)
    with Image.open(FOLDER / PICTURE_NAME) as picture:
        picture.load()
    save_png(picture, FOLDER / PICTURE_NAME, chunks=workflow)


if __name__ == "__main__":
    main()
