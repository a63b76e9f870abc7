"""Distils a few-step LoRA from a Stable Diffusion teacher.

    accelerate launch train_lcm_lora.py --pretrained_teacher_model PATH_OR_HUB_ID \\
        --train_data_dir photos/ --output_dir out/

`--help` lists all flags; `--config file.yaml` takes the same names. The same command again goes on
where it stopped.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # see `obeying`, which comes with more to import
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from lcm.system.console import error_exit, hide_loading_bars, is_main, log_plainly, quiet_libraries
from lcm.system.launcher import tell_launcher
from lcm.system.signals import Stopped, StopRequest, obeying

if TYPE_CHECKING:
    from lcm.config.run import TrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Runs training, or a rehearsal of it with --dry_run.

    Returns the exit status: 0, 1 where another process is lost, 2 after a mistake of the user, 128
    + n where signal n asked to stop.
    """
    with obeying():
        return run(argv, StopRequest())


def run(argv: Sequence[str] | None, stop: StopRequest) -> int:
    """Does what `main` does, listening to signals as soon as all is imported."""
    quiet_libraries()
    log_plainly()
    try:
        from lcm.config.command_line import parse_config  # which needs no model library, as --help

        config = parse_config(argv)
    except (ValueError, OSError) as error:
        return refuse(error)
    # all that takes time to import
    from lcm.adapter.export import ExportError
    from lcm.dry_run.memory_fit import out_of_memory
    from lcm.outputs.folder import full_disk, what_is_saved
    from lcm.system.memory import is_out_of_memory
    from lcm.system.processes import lost_process
    from lcm.training import loop, setup  # noqa: F401
    from lcm.training.workspace import written_folders

    output_dir = config.output.folder
    try:
        with stop.listening():
            hide_loading_bars(config.teacher.path)
            rehearse(config) if config.loop.dry_run else train(config, stop)
    except (ValueError, OSError, FloatingPointError, ExportError) as error:
        return refuse(full_disk(error, written_folders(config.cache, output_dir)) or error)
    except (Stopped, Exception) as reason:
        shows_all = bool(os.environ.get("LCM_TRACEBACK"))
        if is_out_of_memory(reason) and not shows_all:
            return fail(out_of_memory(config))
        # what is interrupted may answer with an error of its own, and a process that waits for one
        # that has stopped already gets one of the network
        if stop.asked or isinstance(reason, Stopped):
            stopped = reason if isinstance(reason, Stopped) else Stopped(int(stop.signum or 0))
            if is_main():
                print(f"stopped by {stopped}: {what_is_saved(output_dir)}", file=sys.stderr)
                tell_launcher(f"stopped by {stopped}")
            return stopped.status
        if (lost := lost_process(reason, what_is_saved(output_dir))) is None or shows_all:
            raise
        return fail(lost)
    return 0


def refuse(error: Exception) -> int:
    """Prints a mistake as one line, or with LCM_TRACEBACK where it came from; the exit status."""
    if os.environ.get("LCM_TRACEBACK"):
        raise error
    return fail(error)


def fail(error: Exception) -> int:
    """Prints an error as one line, and lets the launcher know it; the exit status."""
    status = error_exit(error)
    tell_launcher(error)
    return status


def rehearse(config: TrainConfig) -> None:
    """Tries the run out and leaves nothing behind."""
    from lcm.dry_run.rehearse import rehearse as try_out
    from lcm.outputs.resume import AlreadyFinished
    from lcm.training.setup import build_run

    try:
        try_out(*build_run(config))
    except AlreadyFinished as finished:
        logging.info("%s", finished)


def train(config: TrainConfig, stop: StopRequest) -> None:
    """Makes the run or what is left of it, alone in its folder, and uploads the result where that
    was asked for.
    """
    from lcm.outputs.folder import clear_remains
    from lcm.outputs.resume import AlreadyFinished
    from lcm.publish.hub import push
    from lcm.system.lock import alone_in
    from lcm.training.loop import Trainer
    from lcm.training.setup import build_run

    output_dir, hub = config.output.folder, config.hub
    with alone_in(output_dir) if is_main() else nullcontext():
        if is_main():
            clear_remains(output_dir)
        try:
            Trainer(*build_run(config), stop).fit()
        except AlreadyFinished as finished:
            logging.info("%s", finished)
        if hub.push_to_hub and is_main():
            address = push(output_dir, hub.hub_model_id, hub.hub_private)
            logging.info("uploaded: %s", address)


if __name__ == "__main__":
    sys.exit(main())
