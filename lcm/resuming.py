"""Going on with a run: which checkpoint, and whether it is the same run. Nothing finished is ever overwritten."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lcm.adapters import WEIGHTS_NAME
from lcm.checkpoint import RunState, find_checkpoint, list_checkpoints, load_checkpoint
from lcm.config import TrainConfig
from lcm.data.report import JSON_NAME, PICTURE_NAME
from lcm.full import is_full

OVERWRITTEN = ("README.md", "config.yaml", "metrics.jsonl", JSON_NAME, PICTURE_NAME)
"""Files that a run overwrites in its folder."""


def open_output(config: TrainConfig) -> RunState | None:
    """Returns the checkpoint to go on from, None to start afresh. Nothing is written.

    Raises ValueError when the folder holds another run, or other things that would be overwritten, or cannot be written,
    and FileNotFoundError when the wanted checkpoint is none.
    """
    output_dir = Path(config.output_dir)
    folder = find_checkpoint(output_dir, config.resume_from_checkpoint)
    state = None if folder is None else load_checkpoint(folder)
    taken = (output_dir / WEIGHTS_NAME).exists() or is_full(output_dir) or list_checkpoints(output_dir)
    goes_on_here = folder is not None and folder.resolve().parent == output_dir.resolve()
    if taken and not goes_on_here:
        raise ValueError(
            f"output_dir: {output_dir} already holds a run, which would be overwritten; pass another --output_dir, or "
            "--resume_from_checkpoint latest to go on with it (a run without a checkpoint-<step> folder cannot go on)"
        )
    foreign = [name for name in OVERWRITTEN if (output_dir / name).exists()]
    if foreign and not taken and not is_ours(output_dir):
        raise ValueError(f"output_dir: {output_dir} holds a {foreign[0]} of something else; pass another --output_dir")
    existing = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"output_dir: {output_dir} cannot be written ({error}); choose another folder") from error
    return state


def is_ours(output_dir: Path) -> bool:
    """Whether a folder without checkpoints is what an early interruption of a run leaves."""
    try:
        return "pretrained_teacher_model" in (output_dir / "config.yaml").read_text() and not (output_dir / "README.md").exists()
    except OSError:
        return False


def check_same_run(state: RunState, config: TrainConfig, samples_per_step: int, data_fingerprint: str) -> None:
    """Raises ValueError when the checkpoint was made with other settings or other data."""
    missing = {"step", "config", "data", "samples_per_step", "optimizer_groups", "lr_scheduler", "skipped"} - state.facts.keys()
    if missing:
        raise ValueError(f"resume_from_checkpoint: the checkpoint lacks {', '.join(sorted(missing))}; pass an earlier one")
    where = f"resume_from_checkpoint: step {state.facts['step']} in {config.output_dir}"
    differences = config.differences(state.facts["config"])
    if state.facts["samples_per_step"] != samples_per_step:
        differences.append(f"samples per update: {state.facts['samples_per_step']} -> {samples_per_step}")
    if differences:
        raise ValueError(
            f"{where} was made with another configuration ({'; '.join(differences)}); use the same settings, or start a "
            "new run in another --output_dir"
        )
    if state.facts["step"] > config.max_train_steps:
        raise ValueError(f"{where} is beyond max_train_steps={config.max_train_steps}; pass more steps")
    if state.facts["data"] != data_fingerprint:
        raise ValueError(f"{where} was made with other images or captions; restore the data, or start a new run elsewhere")
