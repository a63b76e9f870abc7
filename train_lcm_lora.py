"""Distils a few-step LoRA from a Stable Diffusion teacher.

    accelerate launch train_lcm_lora.py --pretrained_teacher_model PATH_OR_HUB_ID --train_data_dir photos/ --output_dir out/

`--help` lists all flags; `--config file.yaml` takes the same names.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Runs training, or one step with --dry_run. Returns the exit status: 0, or 2 after a mistake of the user."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read on import; what matters is said below
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    import diffusers
    import transformers

    from lcm.adapters import ExportError
    from lcm.config import error_exit, parse_config
    from lcm.trainer import Trainer

    is_main = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_main else logging.ERROR, format="%(message)s", stream=sys.stderr, force=True)
    try:
        config = parse_config(argv)
        if Path(str(config.pretrained_teacher_model)).is_dir():  # bars are for downloads
            diffusers.utils.logging.disable_progress_bar()
            transformers.utils.logging.disable_progress_bar()
        trainer = Trainer(config)
        trainer.dry_run() if config.dry_run else trainer.fit()
    except (ValueError, OSError, FloatingPointError, ExportError) as error:
        if os.environ.get("LCM_TRACEBACK"):
            raise
        return error_exit(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
