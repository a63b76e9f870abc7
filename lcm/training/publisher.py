"""What a run shows and exports: validation grids, the result checked by reloading, its card."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from PIL import Image

from lcm.adapter.names import OUTPUT_NAME_KEY
from lcm.adapter.recipe import Recipe
from lcm.config.run import TrainConfig
from lcm.inference import make_scheduler
from lcm.models.families import Family
from lcm.outputs.finished import flaw_of_card, write_result_sums
from lcm.outputs.folder import CARD_NAME, PICTURE_NAME, REPORT_NAME, grid_name
from lcm.outputs.trackers import log_picture
from lcm.outputs.validation import GridSpec, draw_grid
from lcm.publish.card import write_card
from lcm.publish.comfyui import workflow_files, write_workflow
from lcm.publish.last_words import last_words
from lcm.publish.report import write_page
from lcm.system.disk_space import optional
from lcm.system.image_grid import save_png
from lcm.system.signals import never
from lcm.training.student import Student

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Publisher:
    """Draws and exports the student of one run.

    `settings` are the resolved flags, `prompts` the rows of its grids.
    """

    config: TrainConfig
    settings: dict[str, Any]
    accelerator: Accelerator
    family: Family
    recipe: Recipe
    prompts: list[str]
    student: Student

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.config.output.folder

    def grid_path(self, step: int) -> Path:
        """The file of the grid of a step."""
        return self.folder / grid_name(step)

    def validate(self, step: int, asked: Callable[[], bool] = never) -> bool:
        """Draws the grid with the live student, all processes together, and keeps it as
        validation/step-<step>.png.

        Returns False, on all processes, when one was `asked` to stop before it had drawn its rows.
        """
        with self.student.drawing() as unet:
            grid = self._draw(
                unet, (self.accelerator.process_index, self.accelerator.num_processes), asked=asked
            )
        if grid is not None and self.accelerator.is_main_process:
            with optional(f"the grid of step {step}"):
                save_png(grid, self.grid_path(step))
            log_picture(self.accelerator, "validation", grid, step)
            self.report()
        return grid is not None

    def export(self, path: Path, step: int) -> None:
        """Writes what was trained. Raises ExportError when it does not reload as that."""
        name = self.config.output.output_name
        training = {
            **({} if name is None else {OUTPUT_NAME_KEY: name}),
            "ss_steps": str(step),
            "ss_learning_rate": str(self.config.optimizer.rate),
            "ss_mixed_precision": self.config.loop.mixed_precision,
        }
        with self.student.drawing():
            self.student.result.export(path, self.recipe, training, self.family.unet.dtype)

    def publish(self, step: int) -> None:
        """The finished adapter, its picture drawn from the reloaded file, and its card; a whole one
        that is there stays, for it may have been edited.
        """
        output_dir = self.folder
        path = output_dir / self.config.output.weights_file
        self.export(path, step)
        workflow = workflow_files(self.recipe, self.config, self.prompts[0])
        if self.config.validation.draws:
            grid = self._draw(self.student.result.reload(path), (0, 1))
            assert grid is not None  # nothing asked it to stop
            save_png(grid, output_dir / PICTURE_NAME, chunks=workflow)
        else:
            # that of a shorter run shows another result
            (output_dir / PICTURE_NAME).unlink(missing_ok=True)
        write_workflow(output_dir, workflow)
        self.report(finished=True)
        write_result_sums(output_dir, path.name)
        if flaw_of_card(output_dir / CARD_NAME) is not None:
            write_card(output_dir, self.recipe, self.config, self.settings, self.prompts)
        for line in last_words(self.recipe, self.config, self.prompts[0]):
            logger.info("%s", line)

    def report(self, finished: bool = False) -> None:
        """Writes the page of what the output folder holds by now. Whatever is wrong with it, the
        run goes on.
        """
        processes = self.accelerator.num_processes
        try:
            write_page(
                self.folder,
                self.config,
                self.settings,
                self.recipe,
                self.prompts,
                processes=processes,
                finished=finished,
            )
        except Exception as error:
            # a file that somebody changed or a full disk must not cost what was trained
            logger.warning(
                "%s could not be written (%s); the run goes on without it", REPORT_NAME, error
            )

    def try_drawing(self) -> Image.Image:
        """The first row of a grid with the live student, kept nowhere: for its time, its memory and
        its errors.
        """
        with self.student.drawing() as unet:
            row = self._draw(unet, (0, 1), rows=1)
        assert row is not None  # nothing asked it to stop
        return row

    def _draw(
        self,
        unet: Any,
        process: tuple[int, int],
        rows: int | None = None,
        asked: Callable[[], bool] = never,
    ) -> Image.Image | None:
        """The grid; with `rows`, only so many of them. None when it was `asked` to stop."""
        pipe = self.family.few_step_pipe(
            unet, make_scheduler(self.family.pipe.scheduler.config, self.recipe)
        )
        spec = GridSpec(
            prompts=self.prompts[:rows],
            num_steps=self.config.validation.validation_num_steps,
            seed=self.config.validation.validation_seed,
            resolution=self.recipe.resolution,
            guidance_scale=self.recipe.guidance_scale,
            eta=self.recipe.eta,
            clip_skip=self.recipe.clip_skip,
            prompt_chunks=self.recipe.prompt_chunks,
        )
        with self.family.at_hand(self.accelerator.device):
            return draw_grid(self.family, pipe, spec, process, asked)
