"""The `lcm` command."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lcm.system.about import add_about
from lcm.system.console import error_exit, log_from, plain_output, quiet_libraries
from lcm.system.parser import Parser
from lcm.system.signals import Stopped, StopRequest, obeying

OTHER_NAMES = {
    **dict.fromkeys(("model", "pretrained_teacher_model", "checkpoint", "ckpt"), "base"),
    **dict.fromkeys(("lora", "loras", "lora_path", "adapters"), "adapter"),
    **dict.fromkeys(("num_inference_steps", "num_steps"), "steps"),
    **dict.fromkeys(("guidance", "cfg", "cfg_scale"), "guidance_scale"),
    **dict.fromkeys(("output_dir", "out", "outdir"), "output"),
    **dict.fromkeys(("prompts", "text"), "prompt"),
    **dict.fromkeys(("batch", "n"), "batch_size"),
    "sampler": "scheduler",
    "hub_token": "`hf auth login`, or HF_TOKEN in the environment",
}
"""Flags of other programs, and what they are called here where a verb has them."""


def make_parser() -> Parser:
    """A parser of every verb."""
    from lcm.cli import VERBS

    parser = Parser(
        prog="lcm",
        description="Tools around the distillation of few-step adapters.",
        example=VERBS["generate"].EXAMPLE,
    )
    add_about(parser, "lcm")
    for name, verb in VERBS.items():
        verb.configure(parser.add_verb(name, verb.HELP, example=verb.EXAMPLE, others=OTHER_NAMES))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 where something is wrong with a file, 2 after a mistake of the user,
    128 + n where signal n asked to stop.
    """
    with obeying():
        return run(argv, StopRequest())


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Python looks for cycles among all objects, a tenth of a second with these libraries, whenever
    there are some hundreds more; the tensors of a file are thousands, in no cycle.
    """
    before = gc.get_threshold()
    gc.set_threshold(100 * before[0], *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def run(argv: Sequence[str] | None, stop: StopRequest) -> int:
    """Does what `main` does; the verb hears signals, so that it leaves nothing half-written."""
    quiet_libraries()
    log_from(logging.WARNING)
    try:
        from lcm.cli import VERBS

        args, rest = make_parser().parse_known_args(argv)
        with plain_output(), stop.listening(), seldom_collected():
            status = VERBS[args.verb].run(args, rest)
            sys.stdout.flush()  # where a reader has left, it is found out here and not at the end
        return status
    except (ValueError, OSError) as error:
        if os.environ.get("LCM_TRACEBACK"):
            raise
        return error_exit(error)
    except (Stopped, RuntimeError) as reason:
        # what is interrupted may answer with an error of its own
        if stop.signum is None:
            raise
        stopped = reason if isinstance(reason, Stopped) else Stopped(stop.signum)
        print(f"stopped by {stopped}", file=sys.stderr)
        return stopped.status


if __name__ == "__main__":
    sys.exit(main())
