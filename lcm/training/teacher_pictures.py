"""The teacher's own pictures of the prompts and seeds of the validation grids, beside which the
student's are shown and measured: drawn once in a run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor

from lcm.adapter.lora import base_state
from lcm.data.precomputed.identity import add_component, add_tensors
from lcm.inference.schedulers import teacher_scheduler
from lcm.models.families import Family
from lcm.outputs.reference import read_reference, write_reference
from lcm.outputs.validation import GridSpec, Row, draw_grid, draw_latents, latents_in, said_to
from lcm.system.disk_space import optional
from lcm.system.signals import never

logger = logging.getLogger(__name__)


@dataclass
class TeacherPictures:
    """Draws them when they are first asked for, and keeps their latents in `path`.

    `spec` has the teacher's number of steps and guidance. Those of a checkpoint's run are found
    again; what was drawn by another teacher, or of other prompts, is not.
    """

    family: Family
    spec: GridSpec
    path: Path
    rows: Sequence[Row] | None = field(default=None, init=False)

    def pipe(self, unet: Any) -> Any:
        """The stock pipeline around the teacher's U-Net."""
        scheduler = teacher_scheduler(self.family.pipe.scheduler.config)
        return self.family.few_step_pipe(unet, scheduler)

    def get(
        self, unet: Any, process: tuple[int, int], asked: Callable[[], bool] = never
    ) -> Sequence[Row] | None:
        """The rows, on the main process; None, on all, when one of them was `asked` to stop.

        `unet` is the teacher's. The processes (rank, count) share the prompts out.
        """
        if self.rows is None:
            rank, count = process
            key = self.key(unet) if rank == 0 else ""
            kept = read_reference(self.path, key) if rank == 0 else None
            is_kept = kept is not None
            if count > 1:
                is_kept = gather_object([is_kept])[0]  # as the main process sees it
            if is_kept:
                self.rows = [] if kept is None else [self._row(latents) for latents in kept]
            else:
                self.rows = self._draw(unet, process, asked, key)
        return self.rows

    def try_out(self, unet: Any, num_steps: int) -> None:
        """Draws the first prompt in so many steps, of so many seeds as are drawn at once, for its
        time, its memory and its errors.
        """
        spec, pipe = self.spec, self.pipe(unet)
        seeds = min(spec.num_images, spec.at_once)
        text = said_to(pipe, spec.prompts[0], spec)
        draw_latents(pipe, text, dataclasses.replace(spec, num_images=seeds), num_steps)

    def _draw(
        self, unet: Any, process: tuple[int, int], asked: Callable[[], bool], key: str
    ) -> Sequence[Row] | None:
        spec = self.spec
        logger.info(
            "drawing the teacher's pictures to compare with, once: %d prompts, %d seeds, %d steps, "
            "guidance_scale %g",
            *(len(spec.prompts), spec.num_images, spec.num_steps[0], spec.guidance_scale),
        )
        rows = draw_grid(self.family, self.pipe(unet), spec, process, asked)
        if rows is not None and process[0] == 0:
            with optional(f"{self.path.name}, the teacher's pictures,"):
                write_reference(self.path, key, latents_in(rows, 0))
        return rows

    def _row(self, latents: Tensor) -> Row:
        vae, shown = self.family.pipe.vae, latents[: int(self.spec.is_shown)]
        return Row(self.family.decode(shown.to(vae.device)) if len(shown) else [], [latents])

    def key(self, unet: Any) -> str:
        """The SHA-256 of all that they follow from, the teacher's weights included."""
        family, digest = self.family, hashlib.sha256()
        spec = dataclasses.asdict(self.spec)
        del spec["is_shown"], spec["first_timestep"]  # what is drawn is the same
        facts = [spec, family.text_settings, family.pipeline_options()]
        config = dict(teacher_scheduler(family.pipe.scheduler.config).config)
        digest.update(json.dumps([*facts, config], sort_keys=True, default=str).encode())
        add_tensors(digest, base_state(unet).items())
        for encoder in family.text_encoders():
            add_component(digest, encoder)
        return digest.hexdigest()
