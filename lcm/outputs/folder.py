"""Every name that a run writes into its output folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from lcm.adapter.names import SUFFIX, UNET_FOLDER, UNVERIFIED, WEIGHTS_NAME
from lcm.config.run import DEFAULTS
from lcm.data import report as data_report
from lcm.outputs.checkpoint import FACTS, PREFIX, list_checkpoints, numbered
from lcm.system.atomic import recover
from lcm.system.checksums import SUMS_NAME
from lcm.system.disk_space import FULL, free_bytes, nearest_existing, readable
from lcm.system.paths import obstacle

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
TEACHER_NAME = f"{GRIDS}/teacher.safetensors"
"""The latents of the teacher's own pictures, with which the grids are compared."""
MEASURED_NAME = f"{GRIDS}/teacher-evaluated.safetensors"
"""The same of the captions of --evaluate_steps."""
TRAJECTORIES = "trajectories"
"""The folder of the teacher's trajectories, where no other is named."""
OVERWRITTEN = (
    *(CARD_NAME, CARD_DATA_NAME, WORKFLOW_NAME),
    *(CONFIG_NAME, METRICS_NAME, REPORT_NAME, SUMS_NAME),
    *(data_report.JSON_NAME, data_report.PICTURE_NAME),
    *(PICTURE_NAME, f"{GRIDS}/step-*.png", TEACHER_NAME, MEASURED_NAME),
)
"""Files that a run overwrites in its folder, or patterns of them."""


def grid_name(step: int) -> str:
    """The file of the grid of a step."""
    return f"{GRIDS}/step-{step:06d}.png"


def check_ways(output_dir: Path, adapter: str = WEIGHTS_NAME) -> None:
    """Raises ValueError where a file lies in the way of a folder that a run writes into, a folder
    in that of a file, or a link leads nowhere. `adapter` is the file of what is trained.
    """
    for name in ("", Path(PICTURE_NAME).parent, GRIDS):
        if (what := obstacle(output_dir / name)) is not None:
            raise ValueError(
                f"output_dir: {what}, and a run writes there; move it away, or pass another "
                "--output_dir"
            )
    for name in (*(name for name in OVERWRITTEN if "*" not in name), adapter):
        if (output_dir / name).is_dir():
            raise ValueError(
                f"output_dir: {output_dir / name} is a folder, and a run writes a file of that "
                "name; move it away, or pass another --output_dir"
            )


def first_foreign(output_dir: Path) -> str | None:
    """The first thing in a folder without a run that a run would overwrite."""
    for pattern in (*OVERWRITTEN, UNET_FOLDER):
        for path in output_dir.glob(pattern):
            return path.relative_to(output_dir).as_posix()
    for path in numbered(output_dir):
        if not path.is_dir() or any(path.iterdir()):
            return path.name
    return None


def clear_remains(output_dir: Path) -> None:
    """Clears up what a killed run left half done in its own folder; touches no other."""
    checkpoints = [
        path
        for pattern in (f"{PREFIX}*", f".{PREFIX}*.old")
        for path in output_dir.glob(pattern)
        if (path / FACTS).is_file()
    ]
    if not checkpoints and not has_settings(output_dir):
        return
    recover(output_dir, [f"{PREFIX}[0-9]*"])
    for name in OVERWRITTEN:
        recover((output_dir / name).parent, [Path(name).name])
    for folder in (output_dir, *filter(Path.is_dir, numbered(output_dir))):
        recover(folder, [f"*{SUFFIX}", UNET_FOLDER])
        (folder / UNVERIFIED).unlink(missing_ok=True)


def what_is_saved(output_dir: Path) -> str:
    """The last line of a run that was stopped."""
    checkpoints = list_checkpoints(output_dir)
    if not checkpoints:
        return "there was no checkpoint yet; the same command starts again"
    return f"{checkpoints[-1]} is saved; the same command goes on from it"


def full_disk(error: Exception, folders: Iterable[Path]) -> OSError | None:
    """A full disk, said with what to do; None for any other error. `folders` are those that the run
    writes into, the output folder first.
    """
    if not isinstance(error, OSError) or error.errno not in FULL:
        return None
    output_dir, *others = folders
    named = [] if error.filename is None else [Path(os.fsdecode(error.filename)).parent]
    places = [nearest_existing(folder) for folder in named or (output_dir, *others)]
    place = min(places, key=free_bytes)
    free = "" if error.errno == errno.EDQUOT else f", free are {readable(free_bytes(place))}"
    what = "your share of the disk" if error.errno == errno.EDQUOT else "the disk"
    return OSError(f"{what} of {place} is full{free}; make room ({what_is_saved(output_dir)})")


def is_ours(output_dir: Path) -> bool:
    """Whether a folder without checkpoints is what an early interruption of a run leaves."""
    return has_settings(output_dir) and not (output_dir / CARD_NAME).exists()


def has_settings(output_dir: Path) -> bool:
    """Whether config.yaml there is that of a run, which has all flags; people write some."""
    try:
        lines = (output_dir / CONFIG_NAME).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return False
    named = {line.partition(":")[0] for line in lines}
    return 2 * len(named & DEFAULTS.keys()) > len(DEFAULTS)
