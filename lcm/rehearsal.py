"""--dry_run: a run tried out before it is made."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

from lcm.adapters import WEIGHTS_NAME
from lcm.forecast import summarize
from lcm.launching import peak_memory
from lcm.trainer import Trainer

logger = logging.getLogger(__name__)


def rehearse(trainer: Trainer) -> None:
    """One step, one adapter saved and reloaded in a temporary folder, one picture, sizes and memory printed; nothing kept."""
    config = trainer.config
    logger.info("%s", summarize(config, trainer.family, trainer.student, len(trainer.records), trainer.samples_per_step))
    start = time.perf_counter()
    loss, grad_norm = trainer.train_step(trainer.batches(range(1)))
    seconds = time.perf_counter() - start
    logger.info("one step: loss %.4f, gradient norm %.4f, %.2f s", loss.item(), float(grad_norm), seconds)
    if trainer.accelerator.is_main_process:
        with tempfile.TemporaryDirectory() as folder:
            trainer.publisher.export(Path(folder) / WEIGHTS_NAME, trainer.step)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        what = "U-Net" if config.full_finetune else "adapter"
        logger.info("%s: %.1f MiB, saved, reloaded and compared", what, size / 2**20)
        trainer.publisher.try_drawing()
        logger.info("one picture drawn in %d steps", config.validation_num_steps[0])
    logger.info("peak memory: %s", peak_memory())
    trainer.accelerator.wait_for_everyone()
