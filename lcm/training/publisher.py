"""What a run shows and exports: validation grids, the result checked by reloading, its card."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from lcm.outputs.folder import (
    CARD_NAME,
    MEASURED_NAME,
    PICTURE_NAME,
    REPORT_NAME,
    TEACHER_NAME,
    grid_name,
)
from lcm.outputs.gauges import Values
from lcm.outputs.trackers import log_picture
from lcm.outputs.validation import (
    GridSpec,
    Row,
    Teachers,
    draw_grid,
    draw_latents,
    label_grid,
    said_to,
    values_of,
)
from lcm.publish.card import write_card
from lcm.publish.comfyui import workflow_files, write_workflow
from lcm.publish.last_words import last_words
from lcm.publish.report import write_page
from lcm.publish.wording import title, wording
from lcm.system.disk_space import optional
from lcm.system.image_grid import save_png
from lcm.system.signals import never
from lcm.system.text import count
from lcm.training.student import Student
from lcm.training.teacher_pictures import TeacherPictures

logger = logging.getLogger(__name__)

Note = Callable[[int, Values], None]
"""(step, numbers of its grid): what is done with them before the grid is kept."""


def unnoted(step: int, values: Values) -> None:
    """Nobody keeps the numbers."""


@dataclass(frozen=True)
class Publisher:
    """Draws and exports the student of one run.

    `settings` are the resolved flags, `prompts` the rows of its grids, `captions` what
    --evaluate_steps measures.
    """

    config: TrainConfig
    settings: dict[str, Any]
    accelerator: Accelerator
    family: Family
    recipe: Recipe
    prompts: list[str]
    captions: list[str]
    student: Student

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.config.output.folder

    def grid_path(self, step: int) -> Path:
        """The file of the grid of a step."""
        return self.folder / grid_name(step)

    @property
    def spec(self) -> GridSpec:
        """What the grids show of the student."""
        return GridSpec.of(self.recipe, self.config.validation, self.prompts)

    @cached_property
    def teacher(self) -> TeacherPictures | None:
        """What the grids are compared with; None where the teacher is not to draw."""
        if not self.config.validation.validation_teacher_steps:
            return None
        return self._teacher_of(self.spec, TEACHER_NAME)

    @property
    def measured(self) -> GridSpec:
        """What --evaluate_steps measures: captions in all seeds, of which none is shown."""
        count = self.config.validation.measured_images
        return dataclasses.replace(
            self.spec, prompts=self.captions, num_images=count, is_shown=False
        )

    @cached_property
    def measured_teacher(self) -> TeacherPictures:
        """What those are compared with."""
        return self._teacher_of(self.measured, MEASURED_NAME)

    def _teacher_of(self, spec: GridSpec, name: str) -> TeacherPictures:
        """The teacher's own pictures of what is drawn."""
        steps = self.config.validation.validation_teacher_steps
        guidance = self.recipe.teacher_guidance(told=self.config.adapter.w_embedding)
        spec = dataclasses.replace(
            spec, num_steps=[steps], guidance_scale=guidance, eta=0.0, first_timestep=None
        )
        return TeacherPictures(self.family, spec, self.folder / name)

    def validate(self, step: int, asked: Callable[[], bool] = never, note: Note = unnoted) -> bool:
        """Draws the grid with the live student, all processes together, and keeps it as
        validation/step-<step>.png.

        Returns False, on all processes, when one was `asked` to stop before it had drawn its rows.
        """
        process = self.accelerator.process_index, self.accelerator.num_processes
        with self.student.drawing() as unet:
            drawn = self._draw(unet, self.spec, self.teacher, process, asked)
        if drawn is not None and self.accelerator.is_main_process:
            self._keep(step, drawn, note)
            self.report()
        return drawn is not None

    def evaluate(self, step: int, asked: Callable[[], bool] = never, note: Note = unnoted) -> bool:
        """Measures the captions of --evaluate_steps. False where one was `asked` to stop before."""
        process = self.accelerator.process_index, self.accelerator.num_processes
        with self.student.drawing() as unet:
            is_drawn = self._evaluate(unet, step, process, asked, note)
        if is_drawn and self.accelerator.is_main_process:
            self.report()
        return is_drawn

    def _evaluate(
        self, unet: Any, step: int, process: tuple[int, int], asked: Callable[[], bool], note: Note
    ) -> bool:
        spec, teacher = self.measured, self.measured_teacher
        rows = self._draw(unet, spec, teacher, process, asked)
        if rows is not None and self.accelerator.is_main_process:
            note(step, values_of(spec, rows, teacher.rows or ()))
        return rows is not None

    def _keep(self, step: int, rows: Sequence[Row], note: Note) -> Image.Image:
        """Measures, keeps and returns the grid of a step, on the main process."""
        spec, teacher = self.spec, self.teacher
        theirs = None if teacher is None else teacher.rows
        if theirs is not None and not self.config.validation.evaluate_steps:
            note(step, values_of(spec, rows, theirs))
        grid = self._labelled(spec, rows, theirs, f" after {count(step, 'update')}")
        with optional(f"the grid of step {step}"):
            save_png(grid, self.grid_path(step))
        log_picture(self.accelerator, "validation", grid, step)
        return grid

    def _labelled(
        self, spec: GridSpec, rows: Sequence[Row], theirs: Sequence[Row] | None, when: str
    ) -> Image.Image:
        """The grid of these rows, the teacher's beside them where there are any."""
        named = title(self.recipe, wording(self.config.adapter))
        teacher = None
        if theirs is not None and self.teacher is not None:
            teacher = Teachers(theirs, self.teacher.spec.num_steps[0])
        return label_grid(spec, rows, teacher, f"{named}{when}, seed {spec.seed}")

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

    def publish(self, step: int, note: Note = unnoted) -> None:
        """The finished adapter, its picture drawn from the reloaded file, and its card; a whole one
        that is there stays, for it may have been edited.
        """
        output_dir = self.folder
        path = output_dir / self.config.output.weights_file
        self.export(path, step)
        workflow = workflow_files(self.recipe, self.config, self.prompts[0])
        if self.config.validation.draws:
            reloaded = self.student.result.reload(path)
            rows = self._draw(reloaded, self.spec, self.teacher, (0, 1))
            assert rows is not None  # nothing asked it to stop
            if self.config.validation.evaluate_steps:
                self._evaluate(reloaded, step, (0, 1), never, note)
            grid = self._keep(step, rows, note)
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
        """The first row of a grid with the live student, of so many seeds as are drawn at once,
        kept nowhere: for its time, its memory and its errors.
        """
        spec = self.first_row
        with self.student.drawing() as unet, self.family.at_hand(self.accelerator.device):
            rows = draw_grid(self.family, self._pipe(unet), spec)
        assert rows is not None  # nothing asked it to stop
        return self._labelled(spec, rows, None if self.teacher is None else rows, "")

    def try_latents(self) -> None:
        """The same without decoding: what as many more seeds take."""
        spec = self.first_row
        with self.student.drawing() as unet, self.family.at_hand(self.accelerator.device):
            pipe = self._pipe(unet)
            text = said_to(pipe, spec.prompts[0], spec)
            for n in spec.num_steps:
                draw_latents(pipe, text, spec, n)

    @property
    def first_row(self) -> GridSpec:
        """What is drawn to try it out: as many seeds as are drawn together of anything."""
        spec = self.spec
        seeds = min(self.config.validation.measured_images, spec.at_once)
        return dataclasses.replace(spec, prompts=spec.prompts[:1], num_images=seeds)

    def try_teacher(self, num_steps: int) -> None:
        """One prompt in so many of the teacher's steps, for the same."""
        teacher = self.measured_teacher if self.captions else self.teacher
        if teacher is not None:
            with self.student.teaching() as unet, self.family.at_hand(self.accelerator.device):
                teacher.try_out(unet, num_steps)

    def _pipe(self, unet: Any) -> Any:
        scheduler = make_scheduler(self.family.pipe.scheduler.config, self.recipe)
        return self.family.few_step_pipe(unet, scheduler)

    def _draw(
        self,
        unet: Any,
        spec: GridSpec,
        teacher: TeacherPictures | None,
        process: tuple[int, int],
        asked: Callable[[], bool] = never,
    ) -> list[Row] | None:
        """The rows, those of the teacher first where they are not there yet. None when it was
        `asked` to stop.
        """
        with self.family.at_hand(self.accelerator.device):
            if teacher is not None:
                with self.student.teaching() as frozen:
                    if teacher.get(frozen, process, asked) is None:
                        return None
            return draw_grid(self.family, self._pipe(unet), spec, process, asked)
