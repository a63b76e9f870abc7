"""The learning rate where none was given: one that serves a U-Net of 4 million parameters and one
of 2.6 billion.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from lcm.config.run import TrainConfig
from lcm.models.families import Family

logger = logging.getLogger(__name__)

SD_WIDTH = 1280
"""The widest block of the U-Nets of SD 1.x, SD 2.x and SDXL."""
OF_AN_ADAPTER, OF_A_UNET = 1e-4, 1e-5
"""What is trained of such a U-Net, and the rate that the field's scripts train it at."""


def automatic_rate(width: int, *, full_finetune: bool) -> float:
    """The peak learning rate of AdamW for a U-Net whose widest block has `width` channels:
    base * 1280 / width, rounded to two digits.

    Adam moves every weight by about the rate, whatever the gradient. What that moves in the output
    of a layer grows with the number of its inputs, so the rate that is just stable falls as
    1 / width (muP, Yang et al. 2022, Table 3; for the A of an adapter LoRA+, Hayou et al. 2024).
    """
    base = OF_A_UNET if full_finetune else OF_AN_ADAPTER
    return float(f"{base * SD_WIDTH / width:.1e}")


def with_rate(config: TrainConfig, family: Family) -> TrainConfig:
    """The configuration with a learning rate: its own, or the one for this U-Net, which is said."""
    if config.optimizer.learning_rate is not None:
        return config
    width = max(family.unet.config.block_out_channels)
    rate = automatic_rate(width, full_finetune=config.adapter.full_finetune)
    logger.info("learning_rate: %g, chosen for a U-Net that is %d channels wide", rate, width)
    return replace(config, optimizer=replace(config.optimizer, learning_rate=rate))
