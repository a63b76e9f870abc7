"""Every name that a run writes into its output folder."""

from __future__ import annotations

from pathlib import Path

from lcm.adapter.names import UNET_FOLDER, UNVERIFIED, WEIGHTS_NAME
from lcm.data import report as data_report
from lcm.outputs.checkpoint import PREFIX, list_checkpoints
from lcm.system.atomic import recover
from lcm.system.disk_space import FULL, free_bytes, nearest_existing, readable

CONFIG_NAME = "config.yaml"
METRICS_NAME = "metrics.jsonl"
REPORT_NAME = "report.html"
CARD_NAME = "README.md"
CARD_DATA_NAME = "card.json"
"""What the card is made of, for a card that others can read."""
WORKFLOW_NAME = "comfyui_workflow.json"
"""What opens in ComfyUI with everything set; the picture carries it too."""
PICTURE_NAME = "images/grid.png"
"""The grid that was drawn with the finished result, reloaded."""
GRIDS = "validation"
"""The folder of the grids that were drawn on the way."""
TRAJECTORIES = "trajectories"
"""The folder of the teacher's trajectories, where no other is named."""
OVERWRITTEN = (
    *(CARD_NAME, CARD_DATA_NAME, CONFIG_NAME, METRICS_NAME, REPORT_NAME, PICTURE_NAME),
    WORKFLOW_NAME,
    *(data_report.JSON_NAME, data_report.PICTURE_NAME),
)
"""Files that a run overwrites in its folder."""
WRITTEN = (
    f"{PREFIX}*",
    *(WEIGHTS_NAME, UNVERIFIED, UNET_FOLDER),
    *(name for name in OVERWRITTEN if not name.endswith(".png")),
    "*.png",
)
"""What a run writes or replaces in its folders, and may have been killed at."""


def grid_name(step: int) -> str:
    """The file of the grid of a step."""
    return f"{GRIDS}/step-{step:06d}.png"


def clear_remains(output_dir: Path) -> None:
    """Clears up what a killed run left half done in its own folder, if that is there."""
    if not output_dir.is_dir():
        return
    for folder in (
        output_dir,
        (output_dir / PICTURE_NAME).parent,
        output_dir / GRIDS,
        *output_dir.glob(f"{PREFIX}*"),
    ):
        recover(folder, WRITTEN)
        (folder / UNVERIFIED).unlink(missing_ok=True)


def what_is_saved(output_dir: Path) -> str:
    """The last line of a run that was stopped."""
    checkpoints = list_checkpoints(output_dir)
    if not checkpoints:
        return "there was no checkpoint yet; the same command starts again"
    return f"{checkpoints[-1]} is saved; the same command goes on from it"


def full_disk(error: Exception, output_dir: Path) -> OSError | None:
    """A full disk, said with what to do; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in FULL:
        return None
    free = free_bytes(nearest_existing(output_dir))
    return OSError(
        f"the disk is full, free are {readable(free)}; make room. "
        f"{what_is_saved(output_dir).capitalize()}"
    )


def is_ours(output_dir: Path) -> bool:
    """Whether a folder without checkpoints is what an early interruption of a run leaves."""
    try:
        return (
            "pretrained_teacher_model" in (output_dir / CONFIG_NAME).read_text()
            and not (output_dir / CARD_NAME).exists()
        )
    except OSError:
        return False
