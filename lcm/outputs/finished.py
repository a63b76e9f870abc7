"""Whether the result of a run is there and whole: what is said to be finished, and what may be
given away.
"""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from lcm.adapter.files import opened, read_header
from lcm.adapter.names import SUFFIX, UNET_FOLDER, WEIGHTS_NAME, is_full
from lcm.adapter.recipe import Recipe
from lcm.config.output_sections import NOTHING
from lcm.outputs.folder import CARD_NAME, CONFIG_NAME, PICTURE_NAME, REPORT_NAME, WORKFLOW_NAME
from lcm.system.atomic import replacing
from lcm.system.checksums import SUMS_NAME, first_changed, sums_text
from lcm.system.json_input import read_object
from lcm.system.paths import is_regular, write_text

DRAWS_NOTHING = re.compile(rf"^validation_prompts:\n- {NOTHING}\n(?!-)", re.MULTILINE)
"""What config.yaml, as a run writes it, says of one without pictures."""


def result_files(output_dir: Path, adapter: str | None = WEIGHTS_NAME) -> list[Path]:
    """The files of what was trained: the adapter of this name, or those of the whole U-Net's
    folder.
    """
    if adapter is None or is_full(output_dir):
        return sorted((output_dir / UNET_FOLDER).glob("[!.]*"))
    return [output_dir / adapter]


def weights_in(output_dir: Path, adapter: str | None) -> list[str]:
    """The names of the files of weights among them, from `output_dir`."""
    return [
        path.relative_to(output_dir).as_posix()
        for path in result_files(output_dir, adapter)
        if path.suffix == SUFFIX
    ]


def write_result_sums(output_dir: Path, adapter: str | None = WEIGHTS_NAME) -> None:
    """Writes SHA256SUMS of what was trained. The card and the picture stay out, since people may
    put others there.
    """
    with replacing(output_dir / SUMS_NAME) as partial:
        write_text(partial, sums_text(output_dir, result_files(output_dir, adapter)))


def flaw(output_dir: Path, steps: int, adapter: str = WEIGHTS_NAME) -> str | None:
    """What a run of so many updates lacks, or what is wrong with its result, in words; None where
    all is whole.
    """
    page, made = output_dir / REPORT_NAME, steps_of(output_dir, adapter)
    if (what := flaw_of_result(output_dir, adapter)) is not None:
        return what
    if made not in (None, steps):
        return f"{adapter} is that of {made} updates"
    if not is_regular(page) or not page.read_bytes().rstrip().endswith(b"</html>"):
        return f"{REPORT_NAME} is missing or cut short"
    return None


def steps_of(output_dir: Path, adapter: str = WEIGHTS_NAME) -> int | None:
    """The updates that made the adapter, as its header says; None where nothing does."""
    try:
        return int(read_header(output_dir / adapter)["ss_steps"])
    except (KeyError, ValueError, OSError):
        return None


def flaw_of_result(output_dir: Path, adapter: str | None = WEIGHTS_NAME) -> str | None:
    """What is wrong with what is given away, in words; None where it is whole.

    Former versions wrote no sums: of theirs, files are noticed that cannot be read.
    """
    return (
        first_changed(output_dir, weights_in(output_dir, adapter))
        or flaw_of_weights(output_dir, adapter)
        or (flaw_of_picture(output_dir / PICTURE_NAME) if has_picture(output_dir) else None)
        or flaw_of_workflow(output_dir / WORKFLOW_NAME)
        or flaw_of_card(output_dir / CARD_NAME)
    )


def flaw_of_weights(output_dir: Path, adapter: str | None = WEIGHTS_NAME) -> str | None:
    """Reads every byte of the weights, and the recipe of a U-Net."""
    files = result_files(output_dir, adapter)
    if missing := [path.name for path in files if not is_regular(path)]:
        return f"{missing[0]} is missing"
    weights = [path for path in files if path.suffix == SUFFIX]
    if not weights:
        return f"{UNET_FOLDER} holds no weights"
    try:
        for path in weights:
            read_through(path)
        if is_full(output_dir):
            Recipe.of_unet(output_dir)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def read_through(path: Path) -> None:
    """Raises ValueError or OSError for a safetensors file that is not whole."""
    with opened(path) as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            if not file.get_tensor(name).isfinite().all():
                raise ValueError(f"{path.name}: {name} is not finite")


def has_picture(output_dir: Path) -> bool:
    """Whether there is a picture of the result, or must be one: a run may have been told to draw
    none.
    """
    if (output_dir / PICTURE_NAME).exists():
        return True
    config = output_dir / CONFIG_NAME
    if not is_regular(config):
        return True
    return not DRAWS_NOTHING.search(config.read_text(encoding="utf-8", errors="replace"))


def flaw_of_picture(path: Path) -> str | None:
    """What is wrong with a picture."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError) as error:
        what = "missing" if not path.exists() else f"cut short or overwritten ({error})"
        return f"{path.parent.name}/{path.name} is {what}"
    return None


def flaw_of_workflow(path: Path) -> str | None:
    """What is wrong with a workflow, which not every result has."""
    try:
        if path.exists():
            read_object(path, "")
    except (ValueError, OSError):
        return f"{path.name} is cut short or overwritten"
    return None


def flaw_of_card(path: Path) -> str | None:
    """What is wrong with a card, which people may have edited."""
    if not is_regular(path):
        return f"{path.name} is missing"
    try:
        text = path.read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        return f"{path.name} is no text ({error})"
    if not text.strip() or "\0" in text:
        return f"{path.name} is empty or overwritten"
    if text.startswith("---\n") and "\n---\n" not in text:
        return f"{path.name} is cut short"
    return None
