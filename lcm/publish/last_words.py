"""What a run says when it has ended: what it made, where to look, what to do next."""

from __future__ import annotations

from lcm.adapter.names import UNET_FOLDER
from lcm.adapter.recipe import Recipe
from lcm.config.run import TrainConfig
from lcm.models.styles import Style
from lcm.outputs.folder import CARD_NAME, REPORT_NAME
from lcm.system.text import command_line, plain


def last_words(recipe: Recipe, config: TrainConfig, prompt: str) -> list[str]:
    """Three lines: the result, the pages about it, and a command that draws with it."""
    folder = config.output.folder
    result = UNET_FOLDER if config.adapter.full_finetune else config.output.weights_file
    return [
        f"done: {folder / result}, verified by reloading it",
        f"see {folder / REPORT_NAME}, the run on one page, and {folder / CARD_NAME}, how to use it",
        f"next: {generate(config, prompt)}",
    ]


def generate(config: TrainConfig, prompt: str) -> str:
    """A command that draws a prompt with the result."""
    teacher, folder = config.teacher, config.output.folder
    styles = [] if config.adapter.full_finetune else map(Style.parse, teacher.teacher_lora)
    words = ["lcm", "generate", "--base", teacher.path]
    words += ["--base_config", teacher.base_config] if teacher.base_config else []
    words += ["--adapter", str(folder), *(f"{style.path}={style.weight:g}" for style in styles)]
    words += ["--prompt", plain(prompt), "--output", str(folder / "pictures")]
    return command_line(words)
