"""The training loop: batches in, updates, logs, checkpoints, pictures and one verified adapter out."""

from __future__ import annotations

import dataclasses
import logging
import math
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate.utils import gather_object, set_seed
from diffusers.optimization import get_scheduler
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from lcm.adapters import WEIGHTS_NAME, add_lora
from lcm.checkpoint import (
    RunState,
    flatten_optimizer,
    list_checkpoints,
    prune_checkpoints,
    restore_optimizer,
    save_checkpoint,
)
from lcm.config import TrainConfig
from lcm.data import Record, SampleBatch, StepSampler, TrainDataset, collate, load_records
from lcm.data.sources import fingerprint
from lcm.families import load_family
from lcm.launching import make_accelerator, peak_memory
from lcm.metrics_log import append_metrics, rewind_metrics
from lcm.networks import make_networks
from lcm.objectives import OBJECTIVES, LatentBatch, make_recipe
from lcm.publishing import Publisher
from lcm.resuming import check_same_run, open_output

logger = logging.getLogger(__name__)

MAX_SKIPPED = 50
"""Updates that the fp16 loss scaler may skip in a row: it halves its scale of 65536 each time, so it settles in 17."""

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def prompts_of(records: list[Record], count: int = 4) -> list[str]:
    """Captions out of the data, always the same, for a validation grid without prompts of its own."""
    captions = list(dict.fromkeys(record.captions[0] for record in records))
    return random.Random(0).sample(captions, min(count, len(captions)))


class Trainer:
    """One run. `fit()` trains, `dry_run()` proves in one step that training would work."""

    def __init__(self, config: TrainConfig) -> None:
        self.output_dir = Path(config.output_dir)
        self.accelerator = make_accelerator(config)
        self.process = (self.accelerator.process_index, self.accelerator.num_processes)
        resume = open_output(config)
        self.records = load_records(config)
        # samples of one update over all processes
        self.samples_per_step = config.train_batch_size * config.gradient_accumulation_steps * self.process[1]
        self.config = config = self._with_steps(config)
        self.data_fingerprint = fingerprint(self.records)
        self.family = load_family(
            str(config.pretrained_teacher_model),
            dtype=DTYPES[config.mixed_precision],
            revision=config.teacher_revision,
            variant=config.variant,
            vae_path=config.pretrained_vae_model_name_or_path,
        )
        self.latent_shape = self.family.latent_shape(config.resolution)
        if resume is not None:
            check_same_run(resume, config, self.samples_per_step, self.data_fingerprint)
        self.family.pipe.to(self.accelerator.device)
        method = OBJECTIVES[config.objective]
        self.objective = method.build(config, self.family.schedule.to(self.accelerator.device))
        recipe = make_recipe(
            method,
            config,
            family=self.family.name,
            cross_attention_dim=self.family.unet.config.cross_attention_dim,
            prediction_type=self.family.schedule.prediction_type,
            zero_terminal_snr=self.family.zero_terminal_snr,
            teacher=str(config.pretrained_teacher_model),
            resolution=config.resolution,
        )
        prompts = config.validation_prompts or prompts_of(self.records)
        self.publisher = Publisher(config, self.accelerator, self.family, recipe, prompts)
        self._build_student()
        self.lr_scheduler = get_scheduler(
            config.lr_scheduler,
            self.optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.max_train_steps,
        )
        self.step = self.skipped = 0
        if resume is not None:
            self._restore(resume)
        self._check_agreement()

    def _with_steps(self, config: TrainConfig) -> TrainConfig:
        """The configuration with its epochs, if any, counted in updates."""
        if config.num_train_epochs is None:
            return config
        steps = math.ceil(config.num_train_epochs * len(self.records) / self.samples_per_step)
        return dataclasses.replace(config, max_train_steps=steps, num_train_epochs=None)

    def _check_agreement(self) -> None:
        """Raises ValueError, on all processes, when they do not see the same data and checkpoint."""
        if self.process[1] > 1 and len(set(gather_object([(self.data_fingerprint, self.step, self.config.max_train_steps)]))) > 1:
            raise ValueError(
                "the processes do not see the same training images or the same checkpoint; give all machines the same "
                "--train_data_dir and --output_dir"
            )

    # --- building ---------------------------------------------------------------------------------------------------

    def _build_student(self) -> None:
        config, unet = self.config, self.family.unet
        set_seed(config.seed)  # of the adapter's first values; nothing after this draws from the global generator
        self.parameters = add_lora(unet, config.lora_rank, config.lora_alpha, config.lora_target_modules)
        unet.train()  # gradient checkpointing acts only in training mode; these networks have no dropout
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.adam_weight_decay,
            eps=config.adam_epsilon,
        )
        prepared, self.optimizer = self.accelerator.prepare(unet, optimizer)
        self.prepared = prepared
        self.nets = make_networks(
            unet,
            ema_decay=config.ema_decay if config.target == "ema" else None,
            prepared=prepared,
            autocast=self.accelerator.autocast,
        )

    # --- the step ---------------------------------------------------------------------------------------------------

    def encode(self, batch: SampleBatch) -> LatentBatch:
        """Pixels and captions to latents and conditioning, on the device."""
        device = self.accelerator.device
        cond = self.family.encode_prompts(batch.prompts, batch.sizes)
        return LatentBatch(
            x0=self.family.encode_images(batch.pixels.to(device), batch.posterior_noise.to(device)),
            noise=batch.noise.to(device),
            uniform_time=batch.uniform_time.to(device),
            uniform_guidance=batch.uniform_guidance.to(device),
            cond=cond,
            uncond=self.family.unconditional(cond),
        )

    def train_step(self, batches: Iterator[SampleBatch]) -> tuple[Tensor, Tensor]:
        """One update from `gradient_accumulation_steps` batches. Returns this process's mean loss and the gradient norm.

        Raises FloatingPointError, before the update, when a loss or gradient is not finite.
        """
        losses, keys = [], []
        for _ in range(self.config.gradient_accumulation_steps):
            batch = next(batches)
            with self.accelerator.accumulate(self.prepared):
                per_sample = self.objective(self.nets, self.encode(batch))
                self.accelerator.backward(per_sample.mean())
            losses.append(per_sample.detach())
            keys += batch.keys
        loss = torch.cat(losses)
        grad_norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self._check_finite(loss, grad_norm, keys)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.accelerator.optimizer_step_was_skipped:
            self._count_skipped()
            return loss.mean(), grad_norm
        self.skipped = 0
        self.lr_scheduler.step()
        if self.nets.ema is not None:
            self.nets.ema.update()
        return loss.mean(), grad_norm

    def _count_skipped(self) -> None:
        """The fp16 loss scaler skips updates whose gradients overflow, a few at first. Raises when it never ends."""
        self.skipped += 1
        if self.skipped >= MAX_SKIPPED:
            raise FloatingPointError(
                f"step {self.step}: the gradients overflowed in {self.skipped} updates running, none of which was made; use "
                "--mixed_precision bf16 or no"
            )

    def _check_finite(self, loss: Tensor, grad_norm: Tensor, keys: list[str]) -> None:
        bad = ~loss.isfinite()
        if self.accelerator.scaler is None:  # a loss scaler expects infinite gradients and skips them itself
            bad = bad | ~grad_norm.isfinite()
        if self.accelerator.reduce(bad.any().float()).item() == 0:
            return
        samples = [key for key, is_bad in zip(keys, bad.tolist(), strict=True) if is_bad]
        checkpoints = list_checkpoints(self.output_dir)
        raise FloatingPointError(
            f"step {self.step + 1}: the loss or its gradient is not finite "
            f"(samples: {', '.join(samples[:8]) or 'on another process'}). "
            f"The update was not made; the last checkpoint is {checkpoints[-1] if checkpoints else 'not written yet'}. "
            "Lower --learning_rate, try --mixed_precision bf16 or no, or remove these samples"
        )

    # --- the run ----------------------------------------------------------------------------------------------------

    def batches(self, steps: range) -> Iterator[SampleBatch]:
        """This process's batches for `steps`."""
        dataset = TrainDataset(self.records, self.config, self.latent_shape, self.config.seed)
        sampler = StepSampler(
            len(dataset),
            self.config.train_batch_size,
            accumulation=self.config.gradient_accumulation_steps,
            process=self.process,
            steps=steps,
            seed=self.config.seed,
        )
        workers = self.config.dataloader_num_workers
        return iter(
            DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0)
        )

    def fit(self) -> None:
        """Trains to the last step and writes the verified adapter, its card and its picture."""
        config, main = self.config, self.accelerator.is_main_process
        if main:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            (self.output_dir / "config.yaml").write_text(config.to_yaml())
            rewind_metrics(self.output_dir, self.step)
        if config.report_to:
            self.accelerator.init_trackers("lcm", config={k: str(v) for k, v in asdict(config).items()})
        logger.info("%s", self.summary())
        if self.step == 0:
            self.publisher.validate(self.step)
        batches = self.batches(range(self.step, self.config.max_train_steps))
        bar = tqdm(
            total=self.config.max_train_steps,
            initial=self.step,
            disable=not main,
            unit="step",
            desc="distilling",
            dynamic_ncols=True,
        )
        since, start, window = self.step, time.perf_counter(), torch.zeros((), device=self.accelerator.device)
        while self.step < self.config.max_train_steps:
            loss, grad_norm = self.train_step(batches)
            window += loss
            bar.update()
            last = self.step == self.config.max_train_steps
            saving = self.step % config.checkpointing_steps == 0 or last
            if self.step % config.logging_steps == 0 or saving:  # a line at every checkpoint, so that none is half lost
                seconds = (time.perf_counter() - start) / (self.step - since)
                metrics = self.log(window / (self.step - since), grad_norm, seconds)
                bar.set_postfix(loss=f"{metrics['loss']:.4f}", lr=f"{metrics['lr']:.1e}")
                window.zero_()
                since, start = self.step, time.perf_counter()
            if saving:
                self.save()
            if self.step % config.validation_steps == 0 and not last:
                self.publisher.validate(self.step)
            if since == self.step:
                start = time.perf_counter()  # saving and drawing are not training
        bar.close()
        if main:
            self.publisher.publish(self.step)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def log(self, loss: Tensor, grad_norm: Tensor, seconds_per_step: float) -> dict[str, float | None]:
        """One line of metrics.jsonl: means since the last line over all processes; the norm is that of the last update."""
        metrics: dict[str, float | None] = {
            "step": self.step,
            "epoch": round(self.step * self.samples_per_step / len(self.records), 4),
            "loss": self.accelerator.reduce(loss, reduction="mean").item(),
            "grad_norm": float(grad_norm) if grad_norm.isfinite() else None,  # of an update that the loss scaler skipped
            "lr": self.lr_scheduler.get_last_lr()[0],
            "seconds_per_step": round(seconds_per_step, 4),
            "samples_per_second": round(self.samples_per_step / seconds_per_step, 3),
        }
        if self.accelerator.is_main_process:
            append_metrics(self.output_dir, metrics)
        if self.config.report_to:
            self.accelerator.log(metrics, step=self.step)
        return metrics

    # --- saving -----------------------------------------------------------------------------------------------------

    def _state(self) -> RunState:
        moments, groups = flatten_optimizer(self.optimizer)
        lora = {f"lora.{i}": parameter for i, parameter in enumerate(self.parameters)}
        ema = {f"ema.{i}": average for i, average in enumerate(self.nets.ema.averages if self.nets.ema else [])}
        facts = {
            "config": asdict(self.config),
            "data": self.data_fingerprint,
            "samples_per_step": self.samples_per_step,
            "optimizer_groups": groups,
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "skipped": self.skipped,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        return RunState({**lora, **ema, **moments}, facts)

    @torch.no_grad()
    def _restore(self, state: RunState) -> None:
        device = self.accelerator.device
        for i, parameter in enumerate(self.parameters):
            parameter.copy_(state.tensors[f"lora.{i}"])
        if self.nets.ema is not None:
            self.nets.ema.averages = [state.tensors[f"ema.{i}"].to(device) for i in range(len(self.parameters))]
        restore_optimizer(self.optimizer, state.tensors, state.facts["optimizer_groups"])
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
            # the adapter comes after the state is safe: should it fail its check, nothing of the run is lost
            self._export(save_checkpoint(self.output_dir, self.step, self._state()))
            prune_checkpoints(self.output_dir, self.config.checkpoints_total_limit, self.step)
        self.accelerator.wait_for_everyone()

    # --- knowing beforehand -----------------------------------------------------------------------------------------

    def summary(self) -> str:
        """What is about to be trained, in one line."""
        trained = sum(p.numel() for p in self.parameters)
        frozen = sum(p.numel() for p in self.nets.unet.parameters()) - trained
        epochs = self.config.max_train_steps * self.samples_per_step / len(self.records)
        guidance = " to ".join(f"{g:g}" for g in dict.fromkeys(self.config.guidance_range))
        return (
            f"{self.family.name} teacher, {self.family.schedule.prediction_type}; U-Net {frozen / 1e6:.1f} M parameters frozen in "
            f"{str(self.nets.dtype).removeprefix('torch.')}, {trained / 1e6:.2f} M trained (with gradients and AdamW "
            f"{trained * 16 / 2**20:.0f} MiB); {len(self.records)} samples, {self.samples_per_step} an update, "
            f"{self.config.max_train_steps} updates = {epochs:.1f} epochs; distilling guidance_scale {guidance}"
        )

    def dry_run(self) -> None:
        """One step, one adapter saved and reloaded in a temporary folder, sizes and memory printed; nothing is kept."""
        logger.info("%s", self.summary())
        start = time.perf_counter()
        loss, grad_norm = self.train_step(self.batches(range(1)))
        seconds = time.perf_counter() - start
        logger.info("one step: loss %.4f, gradient norm %.4f, %.2f s", loss.item(), float(grad_norm), seconds)
        if self.accelerator.is_main_process:
            with tempfile.TemporaryDirectory() as folder:
                self._export(Path(folder))
                size = (Path(folder) / WEIGHTS_NAME).stat().st_size
            logger.info("adapter: %.1f MiB, saved, reloaded and compared", size / 2**20)
        logger.info("peak memory: %s", peak_memory())
        self.accelerator.wait_for_everyone()
