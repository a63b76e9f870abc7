"""The training loop: batches in, updates, logs, checkpoints, pictures and one verified adapter
out.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate.utils import gather_object
from diffusers.optimization import get_scheduler
from torch import Tensor
from torch.utils.data import DataLoader

from lcm.adapter.files import WEIGHTS_NAME
from lcm.config.run import TrainConfig
from lcm.data.batch import SampleBatch, collate
from lcm.data.dataset import TrainDataset
from lcm.data.precomputed.latents import EncodedSamples
from lcm.data.precomputed.trajectories import Trajectories
from lcm.data.randomness import sample_rng
from lcm.data.records import fingerprint
from lcm.data.report import make_report, write_report
from lcm.data.sampler import MixedDataset, MixedSampler, StepSampler
from lcm.methods import OBJECTIVES, LatentBatch
from lcm.methods.perceptual import make_lpips
from lcm.models.families import Family
from lcm.outputs.checkpoint import RunState, flatten_optimizer, list_checkpoints, restore_optimizer
from lcm.outputs.folder import CARD_NAME, CONFIG_NAME
from lcm.outputs.metrics import MetricsLog
from lcm.outputs.progress import Progress, Window
from lcm.outputs.resume import check_same_command, check_together, open_together
from lcm.outputs.saving import Saver
from lcm.outputs.trackers import start_trackers
from lcm.outputs.validation import prompts_of
from lcm.publish.hub import check_may_push
from lcm.system.atomic import replacing
from lcm.system.disk_space import warn_if_short
from lcm.system.signals import Stopped, StopRequest, outlive_signals
from lcm.training.encode import encode
from lcm.training.init_adapter import load_first
from lcm.training.inputs import (
    build_buckets,
    build_encoded,
    build_trajectories,
    load_inputs,
    with_resolution,
)
from lcm.training.launch import make_accelerator, team_of
from lcm.training.plan import guess_output_need, plan_of, summarize
from lcm.training.publisher import Publisher
from lcm.training.setup import build_recipe
from lcm.training.student import build_student
from lcm.training.teachers import Bases, caution, identify_styles, park
from lcm.training.workspace import open_cache

logger = logging.getLogger(__name__)

MAX_SKIPPED = 50
"""Updates that the fp16 loss scaler may skip in a row: it halves its scale of 65536 each time, so
it settles in 17.
"""


class Trainer:
    """One run, ready to go: `fit()` trains."""

    def __init__(self, config: TrainConfig, stop: StopRequest | None = None) -> None:
        self.stop = stop or StopRequest()
        self.stopping = False  # whether any process was asked to stop, as all of them know it
        self.output_dir = Path(config.output_dir)
        self.accelerator = make_accelerator(config)
        self.process = (self.accelerator.process_index, self.accelerator.num_processes)
        team, device = team_of(self.accelerator), self.accelerator.device
        check_same_command(config, team)
        resume = open_together(config, self.accelerator, team)
        check_may_push(config, team)
        cache, self.styles = open_cache(config, team), identify_styles(config, team)
        self.families, data = load_inputs(config, team, cache, device)
        self.records = data.records
        # samples of one update over all processes
        self.samples_per_step = (
            config.train_batch_size * config.gradient_accumulation_steps * self.process[1]
        )
        self.config = config = with_resolution(self._with_steps(config), self.family)
        self.data_fingerprint = fingerprint(self.records)
        resolution = int(config.resolution or 0)
        self.latent_shape = self.family.latent_shape(resolution)
        self.buckets = build_buckets(config, self.family, data)
        self.report = make_report(data, resolution, self.buckets)
        for line in self.report.lines():
            logger.info("%s", line)
        if resume is not None:
            check_together(resume, config, self.samples_per_step, self.data_fingerprint, team)
        if (warning := caution(self.family, config)) is not None:
            logger.warning("%s", warning)
        method = OBJECTIVES[config.objective]
        perceptual = make_lpips(self.family.pixels, device) if config.loss_type == "lpips" else None
        self.objective = method.build(config, self.family.schedule.to(device), perceptual)
        first = team.together(lambda: load_first(config, self.family))
        self.data, prompts = data, config.validation_prompts or prompts_of(self.records)
        if config.dry_run and (config.prompts_file is not None or cache is not None):
            data = data.first(
                config.train_batch_size
            )  # it makes what its steps read, and leaves nothing behind
            self.records, self.buckets = data.records, build_buckets(config, self.family, data)
        self.encoded: Sequence[EncodedSamples | None] = [None] * len(self.families)
        self.trajectories: Sequence[Trajectories | None] = [None] * len(self.families)
        if cache is not None:
            self.encoded = build_encoded(config, self.families, data, self.buckets, cache, team)
        if config.prompts_file is not None:
            self.trajectories = [
                build_trajectories(config, family, self.records, team, device)
                for family in self.families
            ]
        park(self.families, config)
        self.student = build_student(config, self.family, self.accelerator, first)
        self.bases = Bases(self.student.unet, [family.unet for family in self.families[1:]])
        recipe = build_recipe(config, self.family, first.recipe if first else None)
        self.publisher = Publisher(
            config, self.accelerator, self.family, recipe, prompts, self.student
        )
        self.lr_scheduler = get_scheduler(
            config.lr_scheduler,
            self.student.optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.max_train_steps,
        )
        self.saver = Saver(self.output_dir, config.checkpoints_total_limit, self._export)
        self.metrics: MetricsLog | None = None
        self.window = Window(self.family.schedule.num_train_timesteps, self.accelerator.device)
        self.step = self.skipped = 0
        if resume is not None:
            self._restore(resume)

    @property
    def family(self) -> Family:
        """The first teacher, with the U-Net that is trained."""
        return self.families[0]

    def _with_steps(self, config: TrainConfig) -> TrainConfig:
        """The configuration with its epochs, if any, counted in updates."""
        if config.num_train_epochs is None:
            return config
        steps = math.ceil(config.num_train_epochs * len(self.records) / self.samples_per_step)
        return dataclasses.replace(config, max_train_steps=steps, num_train_epochs=None)

    # --- the step ---------------------------------------------------------------------------------

    def encode(self, batch: SampleBatch) -> LatentBatch:
        return encode(self.families[batch.teacher], batch, self.accelerator.device)

    def train_step(self, batches: Iterator[SampleBatch]) -> tuple[Tensor, Tensor]:
        """One update from `gradient_accumulation_steps` batches. Returns this process's mean loss
        and the gradient norm.

        Raises FloatingPointError, before the update, when a loss or gradient is not finite.
        """
        losses, times, keys = [], [], []
        progress = self.step / self.config.max_train_steps
        for micro in range(self.config.gradient_accumulation_steps):
            batch = next(batches)
            self.student.nets.dropout_seed = self._dropout_seed(micro)
            with (
                self.bases.standing(batch.teacher),
                self.accelerator.accumulate(self.student.prepared),
            ):
                per_sample, (t, _, _) = self.objective.with_times(
                    self.student.nets, self.encode(batch), progress
                )
                self.accelerator.backward(per_sample.mean())
            losses.append(per_sample.detach())
            times.append(t)
            keys += batch.keys
        loss = torch.cat(losses)
        grad_norm = self.accelerator.clip_grad_norm_(
            self.student.parameters, self.config.max_grad_norm
        )
        self._check_finite(loss, grad_norm, keys)
        self.window.add(loss, torch.cat(times))
        self.student.optimizer.step()
        self.student.optimizer.zero_grad()
        self.step += 1
        if self.accelerator.optimizer_step_was_skipped:
            self._count_skipped()
            return loss.mean(), grad_norm
        self.skipped = 0
        self.lr_scheduler.step()
        self.student.update_averages()
        return loss.mean(), grad_norm

    def _dropout_seed(self, micro: int) -> int | None:
        """Of the masks of one batch: they depend on its place in the run, so a resumed run draws
        them again.
        """
        if self.config.lora_dropout == 0:
            return None
        place = (self.step * self.config.gradient_accumulation_steps + micro) * self.process[
            1
        ] + self.process[0]
        return int(sample_rng(self.config.seed, place, "dropout").integers(2**62))

    def _count_skipped(self) -> None:
        """The fp16 loss scaler skips updates whose gradients overflow, a few at first. Raises when
        it never ends.
        """
        self.skipped += 1
        if self.skipped >= MAX_SKIPPED:
            raise FloatingPointError(
                f"step {self.step}: the gradients overflowed in {self.skipped} updates running, "
                "none of which was made; use --mixed_precision bf16 or no"
            )

    def _check_finite(self, loss: Tensor, grad_norm: Tensor, keys: list[str]) -> None:
        bad = ~loss.isfinite()
        if (
            self.accelerator.scaler is None
        ):  # a loss scaler expects infinite gradients and skips them itself
            bad = bad | ~grad_norm.isfinite()
        # the one reduction that every step waits for also tells all processes, at the same step,
        # that one was asked to stop
        asked = torch.full((), float(self.stop.asked), device=loss.device)
        any_bad, any_asked = self.accelerator.reduce(
            torch.stack([bad.any().float(), asked])
        ).tolist()
        self.stopping = any_asked > 0
        if not any_bad:
            return
        samples = [key for key, is_bad in zip(keys, bad.tolist(), strict=True) if is_bad]
        checkpoints = list_checkpoints(self.output_dir)
        raise FloatingPointError(
            f"step {self.step + 1}: the loss or its gradient is not finite (samples: "
            f"{', '.join(samples[:8]) or 'on another process'}). The update was not made; the last "
            f"checkpoint is {checkpoints[-1] if checkpoints else 'not written yet'}. Lower "
            "--learning_rate, try --mixed_precision bf16 or no, or remove these samples"
        )

    # --- the run ----------------------------------------------------------------------------------

    def dataset(self, teacher: int = 0) -> TrainDataset:
        """The samples as a teacher needs them, by epoch and index."""
        return TrainDataset(
            self.records,
            self.config,
            self.latent_shape,
            self.config.seed,
            buckets=self.buckets,
            trajectories=self.trajectories[teacher],
            encoded=self.encoded[teacher],
            extra_noises=self.objective.extra_noises,
        )

    def batches(self, steps: range) -> Iterator[SampleBatch]:
        """This process's batches for `steps`."""
        sampler = StepSampler(
            self.buckets.groups,
            self.config.train_batch_size,
            accumulation=self.config.gradient_accumulation_steps,
            process=self.process,
            steps=steps,
            seed=self.config.seed,
        )
        workers = self.config.dataloader_num_workers
        return iter(
            DataLoader(
                MixedDataset([self.dataset(teacher) for teacher in range(len(self.families))]),
                batch_sampler=MixedSampler(sampler, len(self.families)),
                collate_fn=collate,
                num_workers=workers,
                persistent_workers=workers > 0,
                worker_init_fn=outlive_signals,
            )
        )

    def fit(self) -> None:
        """Trains to the last step and writes the verified adapter, its card and its picture.

        Raises Stopped after a step and its checkpoint, on all processes, when one of them was asked
        to.
        """
        try:
            self._fit()
        except Stopped:
            self.accelerator.end_training()  # trackers hold lines back
            raise
        self.accelerator.end_training()

    def _fit(self) -> None:
        if self.accelerator.is_main_process:
            plan = plan_of(self.config, self.step)
            warn_if_short(
                [guess_output_need(self.config, plan, self.state(), len(self.publisher.prompts))]
            )
            self._open_folder()
        start_trackers(self.accelerator, self.config, self.step)
        logger.info(
            "%s",
            summarize(
                self.config, self.family, self.student, len(self.records), self.samples_per_step
            ),
        )
        if self._lacks_grid():
            self.publisher.validate(self.step)
        if self.step < self.config.max_train_steps:
            with self.stop.deferred():
                self._train()
            if self.stopping:
                raise Stopped(signal.SIGTERM)  # another process was asked to
        if self.accelerator.is_main_process:
            self.publisher.publish(self.step)
        self.accelerator.wait_for_everyone()

    def _open_folder(self) -> None:
        """Makes the output folder, or makes it ready to go on in."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with replacing(self.output_dir / CONFIG_NAME) as partial:
            partial.write_text(self.config.to_yaml())
        write_report(self.output_dir, self.report, self.records)
        self.metrics = MetricsLog(self.output_dir, self.step)
        if self.step < self.config.max_train_steps:
            (self.output_dir / CARD_NAME).unlink(
                missing_ok=True
            )  # of a shorter run: the card says that all is done
        if self.step:
            self.saver.complete(self.step)

    def _lacks_grid(self) -> bool:
        """Whether the grid of the present step is to be drawn before training goes on: a kill can
        come between a checkpoint and its grid.
        """
        if self.step == 0:
            return True
        if self.step % self.config.validation_steps or self.step == self.config.max_train_steps:
            return False
        return gather_object([not self.publisher.grid_path(self.step).exists()])[
            0
        ]  # as the main process sees it

    def _train(self) -> None:
        """Steps, with their lines, checkpoints and grids, until the last one or until any process
        is asked to stop.
        """
        config = self.config
        batches = self.batches(range(self.step, config.max_train_steps))
        progress = Progress(
            self.accelerator,
            self.window,
            self.metrics,
            step=self.step,
            total=config.max_train_steps,
            samples_per_step=self.samples_per_step,
        )
        while self.step < config.max_train_steps and not self.stopping:
            _, grad_norm = self.train_step(batches)
            progress.advance()
            ending = self.step == config.max_train_steps or self.stopping
            saving = self.step % config.checkpointing_steps == 0 or ending
            if (
                saving or self.step % config.logging_steps == 0
            ):  # no line is half lost behind a checkpoint
                progress.write_line(self.step, self._facts(grad_norm))
            with progress.paused():
                if saving:
                    self.save()
                if self.step % config.validation_steps == 0 and not ending:
                    self.stopping = not self.publisher.validate(self.step, lambda: self.stop.asked)
            if self.stopping and not saving:
                progress.write_line(self.step, self._facts(grad_norm))
                self.save()
        progress.close()

    def _facts(self, grad_norm: Tensor) -> dict[str, float | None]:
        """What a line tells of the last update."""
        return {
            "epoch": round(self.step * self.samples_per_step / len(self.records), 4),
            "grad_norm": float(grad_norm)
            if grad_norm.isfinite()
            else None,  # of an update that the loss scaler skipped
            "delta_norm": self.student.delta_norm().item(),
            "lr": self.lr_scheduler.get_last_lr()[0],
        }

    # --- saving -----------------------------------------------------------------------------------

    def state(self) -> RunState:
        """All that a checkpoint holds, live."""
        moments, groups = flatten_optimizer(self.student.optimizer)
        facts = {
            "config": asdict(self.config),
            "data": self.data_fingerprint,
            "teacher_loras": self.styles,
            "samples_per_step": self.samples_per_step,
            "optimizer_groups": groups,
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "skipped": self.skipped,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        return RunState({**self.student.tensors(), **moments}, facts)

    def _restore(self, state: RunState) -> None:
        self.student.restore(state.tensors, self.accelerator.device)
        restore_optimizer(self.student.optimizer, state.tensors, state.facts["optimizer_groups"])
        self.lr_scheduler.load_state_dict(state.facts["lr_scheduler"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.facts["scaler"])
        self.step, self.skipped = state.facts["step"], state.facts["skipped"]
        logger.info("resuming after step %d", self.step)

    def _export(self, folder: Path) -> None:
        self.publisher.export(folder / WEIGHTS_NAME, self.step)

    def save(self) -> None:
        """A checkpoint: the state to go on from, and the adapter as it is now, ready to load."""
        if self.accelerator.is_main_process:
            if self.metrics is not None:
                self.metrics.sync()  # a checkpoint must not be newer than the lines that lead to it
            if self.step < self.config.max_train_steps:
                self.saver.save(self.step, self.state())
            else:
                self.saver.insist(self.step, self.state(), lambda: self.stop.asked)
        self.accelerator.wait_for_everyone()
