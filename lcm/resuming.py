"""Going on with a run: which checkpoint, and whether it is the same run. Nothing finished is ever overwritten."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lcm.adapters import WEIGHTS_NAME
from lcm.checkpoint import RunState, find_checkpoint, list_checkpoints, load_checkpoint
from lcm.config import TrainConfig


def open_output(config: TrainConfig) -> RunState | None:
    """Makes the output folder and returns the checkpoint to go on from, None to start afresh.

    Raises ValueError, before anything is loaded, when the folder holds another run or cannot be written, and
    FileNotFoundError when the wanted checkpoint is none.
    """
    if config.dry_run:
        return None
    output_dir = Path(config.output_dir)
    folder = find_checkpoint(output_dir, config.resume_from_checkpoint)
    taken = (output_dir / WEIGHTS_NAME).exists() or list_checkpoints(output_dir)
    if taken and config.resume_from_checkpoint is None:
        raise ValueError(
            f"output_dir: {output_dir} already holds a run, which would be overwritten; pass another --output_dir, or "
            "--resume_from_checkpoint latest to go on with it"
        )
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise ValueError(f"output_dir: {output_dir} cannot be written ({error}); choose another folder") from error
    return None if folder is None else load_checkpoint(folder)


def check_same_run(state: RunState, config: TrainConfig, samples_per_step: int, data_fingerprint: str) -> None:
    """Raises ValueError when the checkpoint was made with other settings or other data."""
    where = f"resume_from_checkpoint: step {state.facts['step']} in {config.output_dir}"
    differences = config.differences(state.facts["config"])
    if state.facts["samples_per_step"] != samples_per_step:
        differences.append(f"samples per update: {state.facts['samples_per_step']} -> {samples_per_step}")
    if differences:
        raise ValueError(
            f"{where} was made with another configuration ({'; '.join(differences)}); use the same settings, or start a "
            "new run in another --output_dir"
        )
    if state.facts["data"] != data_fingerprint:
        raise ValueError(f"{where} was made with other images or captions; restore the data, or start a new run elsewhere")
