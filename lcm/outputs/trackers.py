"""TensorBoard, Weights & Biases and Trackio through accelerate: what each of them asks for."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from PIL import Image

from lcm.config.output_sections import OutputConfig
from lcm.system.atomic import replacing
from lcm.system.disk_space import FULL, optional
from lcm.system.paths import write_text
from lcm.system.secrets import one_line

RUN_ID_NAME = "run_id"
"""File inside --logging_dir: the name under which a tracker that is not a folder knows the run."""


def check_installed(names: list[str]) -> None:
    """Raises ValueError for a tracker without its package: accelerate would go on without it."""
    for name in names:
        if name not in {kind.value for kind in LoggerType}:
            raise ValueError(
                f"report_to: accelerate {accelerate.__version__} does not know {name}; pip install "
                f"--upgrade accelerate, or leave {name} out of --report_to"
            )
        if LoggerType(name) not in get_available_trackers():
            raise ValueError(
                f"report_to: {name} is not installed; pip install {name}, or leave it out of "
                "--report_to"
            )


def run_id(folder: Path, step: int) -> str:
    """A new one for a run from the start, the same as before for one that goes on after `step`."""
    path = folder / RUN_ID_NAME
    if step == 0 or not path.exists():
        with replacing(path) as partial:
            write_text(partial, uuid.uuid4().hex[:8])
    return path.read_text(encoding="utf-8")


def start_trackers(
    accelerator: Accelerator, config: OutputConfig, settings: dict[str, Any], step: int
) -> None:
    """Starts those of --report_to, with every setting of the run, to go on after `step`; on the
    main process alone.

    Raises ValueError when one does not start: most often nobody has logged in.
    """
    if not config.report_to or not accelerator.is_main_process:
        return
    folder = config.folder / config.logging_dir
    # it hides what a killed run has logged and comes again
    options: dict[str, Any] = {"tensorboard": {"purge_step": step + 1}}
    if config.report_to != ["tensorboard"]:
        known = run_id(folder, step)
        name = f"{config.folder.resolve().name}-{known}"
        options["wandb"] = {"name": name, "id": known, "resume": "allow", "dir": str(folder)}
        options["trackio"] = {"name": name, "resume": "allow"}
    words = {name: str(value) for name, value in settings.items()}
    try:
        accelerator.init_trackers(config.tracker_project_name, config=words, init_kwargs=options)
    except Exception as error:  # each has kinds of its own
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        names = " or ".join(config.report_to)
        raise ValueError(
            f"report_to: {names} did not start ({one_line(error)}); log in to it, or leave it out "
            "of --report_to"
        ) from error


def log_numbers(accelerator: Accelerator, metrics: Mapping[str, Any], step: int) -> None:
    """One line, without what is no number; `step` is its place and no number of its own."""
    with optional("a line of the trackers"):
        accelerator.log(
            {
                name: value
                for name, value in metrics.items()
                if isinstance(value, int | float) and name != "step"
            },
            step=step,
        )


def log_picture(accelerator: Accelerator, name: str, picture: Image.Image, step: int) -> None:
    """Logs a picture where there are trackers, on the main process."""
    for tracker in accelerator.trackers:
        with optional(f"a picture of {tracker.name}"):
            if tracker.name == "tensorboard":
                tracker.log_images({name: np.array(picture)[None]}, step=step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({name: [picture]}, step=step)
            else:
                import trackio

                tracker.log({name: trackio.Image(picture)}, step=step)
