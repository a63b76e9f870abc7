"""Trains from Python instead of from the command line, and draws with the result.

python -m examples.distil --train_data_dir photos/ --output_dir out/ --max_train_steps 1000
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import examples.quickstart
from lcm.config.command_line import parse_config
from lcm.system.console import log_plainly
from lcm.training.loop import Trainer
from lcm.training.setup import build_run


def main(argv: Sequence[str] | None = None) -> None:
    """`argv` are the flags of train_lcm_lora.py; the teacher is the tiny one unless they name
    another.
    """
    log_plainly()
    given = list(sys.argv[1:] if argv is None else argv)
    config = parse_config(["--pretrained_teacher_model", "examples/shapes/teacher", *given])
    Trainer(*build_run(config)).fit()
    base, folder = config.teacher.path, config.output.folder
    picture = str(folder / "image.png")
    examples.quickstart.main(["--base", base, "--adapter", str(folder), "--output", picture])


if __name__ == "__main__":
    main()
