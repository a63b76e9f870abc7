"""What a run shows and gives away: validation grids, the adapter checked by reloading, its card."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from lcm.adapters import WEIGHTS_NAME, export_lora, verify_export
from lcm.card import write_card
from lcm.config import TrainConfig
from lcm.families import Family
from lcm.playback import make_scheduler
from lcm.recipe import Recipe
from lcm.validation import GridSpec, draw_grid

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Publisher:
    """Draws and exports the student of one run. `prompts` are the rows of its grids."""

    config: TrainConfig
    accelerator: Accelerator
    family: Family
    recipe: Recipe
    prompts: list[str]

    def validate(self, step: int) -> None:
        """Draws the grid with the live student, all processes together, and keeps it as validation/step-<step>.png."""
        unet = self.family.unet
        unet.eval()
        grid = self._draw(unet, (self.accelerator.process_index, self.accelerator.num_processes))
        unet.train()
        if not self.accelerator.is_main_process:
            return
        folder = Path(self.config.output_dir) / "validation"
        folder.mkdir(exist_ok=True)
        grid.save(folder / f"step-{step:06d}.png")
        for tracker in self.accelerator.trackers:
            tracker.log_images({"validation": torch.from_numpy(np.array(grid))[None]}, step=step, dataformats="NHWC")

    def export(self, path: Path, step: int) -> Any:
        """Writes the adapter and reloads it; returns the reloaded U-Net. Raises RuntimeError when it is not the same."""
        training = {
            "ss_steps": str(step),
            "ss_learning_rate": str(self.config.learning_rate),
            "ss_mixed_precision": self.config.mixed_precision,
        }
        export_lora(self.family.unet, path, self.recipe, training=training)
        return verify_export(self.family.unet, path, type(self.family.pipe))

    def publish(self, step: int) -> None:
        """The finished adapter, its picture drawn from the reloaded file, and its card."""
        output_dir = Path(self.config.output_dir)
        reloaded = self.export(output_dir / WEIGHTS_NAME, step)
        (output_dir / "images").mkdir(exist_ok=True)
        self._draw(reloaded, (0, 1)).save(output_dir / "images" / "grid.png")
        write_card(output_dir, self.recipe, self.config, self.prompts)
        logger.info(
            "done: %s, verified by reloading it. Use it with\n"
            "    lcm.attach(pipe, %r)\n"
            "    pipe(prompt, num_inference_steps=4, guidance_scale=%s)",
            output_dir / WEIGHTS_NAME,
            str(output_dir),
            self.recipe.guidance_scale,
        )

    def _draw(self, unet: Any, process: tuple[int, int]) -> Image.Image:
        pipe = self.family.few_step_pipe(unet, make_scheduler(self.family.pipe.scheduler.config, self.recipe))
        spec = GridSpec(
            prompts=self.prompts,
            num_steps=self.config.validation_num_steps,
            seed=self.config.validation_seed,
            resolution=self.config.resolution,
            guidance_scale=self.recipe.guidance_scale,
        )
        return draw_grid(self.family, pipe, spec, process)
