"""Going on with a run: which checkpoint, and whether it is the same run. Nothing finished is ever
overwritten.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from lcm.adapter.names import is_full
from lcm.config.output_sections import OutputConfig
from lcm.config.run import DEFAULTS, PLACES
from lcm.methods import METHODS
from lcm.methods.config import flags_of
from lcm.outputs.checkpoint import RunState, checkpoint_path, list_checkpoints
from lcm.outputs.find_checkpoint import find_checkpoint
from lcm.outputs.finished import flaw, flaw_of_result
from lcm.outputs.folder import check_ways, first_foreign, is_ours
from lcm.system.disk_space import nearest_existing
from lcm.system.processes import Team

logger = logging.getLogger(__name__)


class AlreadyFinished(Exception):  # noqa: N818 - good news
    """The run that was asked for has been made."""


def check_same_command(mine: dict[str, Any], team: Team) -> None:
    """Raises ValueError, on all processes, where one was launched with other flags than the main
    one, files apart. `mine` are the flags of this one.
    """
    main = team.from_main(lambda: mine)
    different = [
        f"{name}: {main[name]} -> {mine[name]}"
        for name in mine
        if name not in PLACES and mine[name] != main[name]
    ]
    if found := team.gather([f"process {team.rank} ({'; '.join(different)})"] if different else []):
        raise ValueError(
            f"{', '.join(found)} was launched with other flags than process 0; launch all with the "
            "same"
        )


def open_together(config: OutputConfig, accelerator: Accelerator, team: Team) -> RunState | None:
    """What `open_output` returns, on all processes what it is on the main one: no other needs to
    see the folder, or its checkpoints.
    """
    state: RunState | None = None

    def facts_and_shapes() -> Any:
        nonlocal state
        state = open_output(config)
        return state and (
            state.facts,
            {name: (tensor.shape, tensor.dtype) for name, tensor in state.tensors.items()},
        )

    described = team.from_main(facts_and_shapes)
    if described is None or team.size == 1:
        return state
    facts, shapes = described
    tensors = {}
    for name, (shape, dtype) in shapes.items():
        sent = torch.empty(shape, dtype=dtype) if state is None else state.tensors[name]
        tensors[name] = broadcast(sent.to(accelerator.device)).cpu()
    return RunState(tensors, facts)


def open_output(config: OutputConfig) -> RunState | None:
    """Returns the checkpoint to go on from, None to start afresh. Nothing is written.

    Raises ValueError when the folder holds another run, or other things that would be overwritten,
    or cannot be written, or when no checkpoint is sound, and FileNotFoundError when the wanted one
    is none.
    """
    output_dir = config.folder
    check_ways(output_dir, config.weights_file)
    found = find_checkpoint(output_dir, config.resume_from_checkpoint)
    checkpoints = list_checkpoints(output_dir)
    taken = (output_dir / config.weights_file).exists() or is_full(output_dir) or checkpoints
    if taken and not (found and is_one_of(found[0], checkpoints)):
        raise ValueError(f"output_dir: {output_dir} already holds a run, {why_not(output_dir)}")
    if not taken and not is_ours(output_dir) and (foreign := first_foreign(output_dir)):
        raise ValueError(
            f"output_dir: {output_dir} holds a {foreign} of something else; pass another "
            "--output_dir"
        )
    try:
        with tempfile.TemporaryFile(dir=nearest_existing(output_dir)):
            pass
    except OSError as error:
        raise ValueError(
            f"output_dir: {output_dir} cannot be written ({error}); choose another folder"
        ) from error
    return found and found[1]


def is_one_of(folder: Path, checkpoints: Iterable[Path]) -> bool:
    """Whether a folder is one of these, by whatever path or link it was named."""
    return any(folder.samefile(path) for path in checkpoints)


def why_not(output_dir: Path) -> str:
    """Why a run cannot be gone on with, and what to do."""
    if list_checkpoints(output_dir):
        return (
            "which would be overwritten; pass another --output_dir, or leave "
            "--resume_from_checkpoint out to go on with it"
        )
    what = flaw_of_result(output_dir)
    broken = "" if what is None else f" Its result is not whole: {what}."
    return (
        "which would be overwritten, and no checkpoint-<step> folder to go on from; pass another "
        f"--output_dir.{broken}"
    )


def differences(mine: dict[str, Any], theirs: dict[str, Any], free: set[str]) -> list[str]:
    """The flags that shape the training and differ from an earlier run: "name: theirs -> ours".

    A flag that an older version did not have counts as its default, or that of the method, which is
    what that version did.
    """
    theirs = DEFAULTS | flags_of(METHODS[mine["objective"]].settings) | theirs
    return [
        f"{name}: {theirs[name]} -> {value}"
        for name, value in sorted(mine.items())
        if name not in free and str(theirs[name]).rstrip("/") != str(value).rstrip("/")
    ]


def check_same_run(state: RunState, output_dir: str, free: set[str], facts: dict[str, Any]) -> None:
    """Raises ValueError when the checkpoint was made with other settings, other style LoRAs or
    other data than the run that has these `facts`. `free` are the flags that may differ.
    """
    theirs = state.facts
    where = f"resume_from_checkpoint: step {theirs['step']} in {output_dir}"
    different = differences(facts["config"], theirs["config"], free)
    if theirs["samples_per_step"] != facts["samples_per_step"]:
        different.append(
            f"samples per update: {theirs['samples_per_step']} -> {facts['samples_per_step']}"
        )
    if different:
        raise ValueError(
            f"{where} was made with another configuration ({'; '.join(different)}); use the same "
            "settings, or start a new run in another --output_dir"
        )
    if theirs.get("teacher_loras", []) != facts["teacher_loras"]:
        raise ValueError(
            f"{where} was made with files of teacher_lora whose content was another; restore them, "
            "or start a new run elsewhere"
        )
    last = facts["config"]["max_train_steps"]
    if theirs["step"] > last:
        raise ValueError(f"{where} is beyond max_train_steps={last}; pass more steps")
    if theirs["data"] != facts["data"]:
        raise ValueError(
            f"{where} was made with other images or captions; restore the data, or start a new run "
            "elsewhere"
        )


def check_together(
    state: RunState, output: OutputConfig, free: set[str], facts: dict[str, Any], team: Team
) -> None:
    """Raises as `check_same_run` does, on all processes, and AlreadyFinished when nothing is left
    to do.
    """
    last = facts["config"]["max_train_steps"]

    def is_finished() -> bool:
        check_same_run(state, output.output_dir, free, facts)
        if state.facts["step"] != last:
            return False
        what = flaw(output.folder, last, output.weights_file)
        if what is not None:
            logger.warning(
                "%s has all %d updates but no whole result (%s): it is made again from %s, "
                "without training",
                output.output_dir,
                last,
                what,
                checkpoint_path(output.folder, last).name,
            )
        return what is None

    if team.from_main(is_finished):
        raise AlreadyFinished(
            f"{output.output_dir} is finished: all {last} updates were made, nothing was done now; "
            "pass more --max_train_steps to go on, or another --output_dir for a new run"
        )
