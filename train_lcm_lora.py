"""Distils a few-step LoRA from a Stable Diffusion teacher.

    accelerate launch train_lcm_lora.py --pretrained_teacher_model PATH_OR_HUB_ID \\
        --train_data_dir photos/ --output_dir out/

`--help` lists all flags; `--config file.yaml` takes the same names. The same command again goes on
where it stopped.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lcm.system.console import error_exit, hide_loading_bars, is_main, log_plainly, quiet_libraries
from lcm.system.signals import Stopped, StopRequest

if TYPE_CHECKING:
    from lcm.config.run import TrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Runs training, or a rehearsal of it with --dry_run.

    Returns the exit status: 0, 2 after a mistake of the user, 128 + n where signal n asked to stop.
    """
    stop = StopRequest()
    try:
        with stop.listening():
            return run(argv, stop)
    except Stopped as stopped:
        print(f"stopped by {stopped} before the run began", file=sys.stderr)
        return stopped.status


def train(config: TrainConfig, stop: StopRequest) -> None:
    """Makes the run or what is left of it, or rehearses it. What it gives away goes to the hub,
    where that was asked for.
    """
    from lcm.dry_run.rehearse import rehearse
    from lcm.outputs.resume import AlreadyFinished
    from lcm.publish.hub import push
    from lcm.training.loop import Trainer

    try:
        trainer = Trainer(config, stop)
    except AlreadyFinished as finished:
        logging.info("%s", finished)
    else:
        rehearse(trainer) if config.dry_run else trainer.fit()
    if config.push_to_hub and is_main() and not config.dry_run:
        logging.info(
            "uploaded: %s", push(Path(config.output_dir), config.hub_model_id, config.hub_private)
        )


def run(argv: Sequence[str] | None, stop: StopRequest) -> int:
    """As `main`, for a process that listens to signals. Raises Stopped as long as nothing has
    begun.
    """
    quiet_libraries()
    from lcm.adapter.export import ExportError
    from lcm.config.run import parse_config
    from lcm.dry_run.memory_fit import out_of_memory
    from lcm.outputs.folder import clear_remains, full_disk, what_is_saved
    from lcm.system.lock import alone_in
    from lcm.system.memory import is_out_of_memory

    log_plainly()
    output_dir = Path()
    try:
        config = parse_config(argv)
        output_dir = Path(config.output_dir)
        hide_loading_bars(config.pretrained_teacher_model)
        owns = is_main() and not config.dry_run
        with alone_in(output_dir) if owns else nullcontext():
            if owns:
                clear_remains(output_dir)
            train(config, stop)
    except (ValueError, OSError, FloatingPointError, ExportError) as error:
        if os.environ.get("LCM_TRACEBACK"):
            raise
        return error_exit(full_disk(error, output_dir) or error)
    except (Stopped, RuntimeError, MemoryError) as reason:
        if is_out_of_memory(reason) and not os.environ.get("LCM_TRACEBACK"):
            return error_exit(out_of_memory(config))
        # a process that waits for one that has stopped already gets an error of the network
        if not stop.asked and not isinstance(reason, Stopped):
            raise
        stopped = reason if isinstance(reason, Stopped) else Stopped(int(stop.signum or 0))
        if is_main():
            print(f"stopped by {stopped}: {what_is_saved(output_dir)}", file=sys.stderr)
        return stopped.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
