"""The training loop: batches in, updates, logs, checkpoints, pictures and one verified adapter out."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from lcm.adapters import WEIGHTS_NAME, add_lora, export_lora, verify_export
from lcm.card import write_card
from lcm.checkpoint import (
    RunState,
    find_checkpoint,
    flatten_optimizer,
    list_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    restore_optimizer,
    save_checkpoint,
)
from lcm.config import TrainConfig
from lcm.data import SampleBatch, StepSampler, TrainDataset, collate, load_records
from lcm.data.sources import fingerprint
from lcm.families import load_family
from lcm.networks import make_networks
from lcm.objectives import OBJECTIVES, LatentBatch, make_recipe
from lcm.playback import make_scheduler
from lcm.validation import GridSpec, draw_grid

logger = logging.getLogger(__name__)

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
METRICS_NAME = "metrics.jsonl"


class Trainer:
    """One run. `fit()` trains, `dry_run()` proves in one step that training would work."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.output_dir = Path(config.output_dir)
        self.accelerator = make_accelerator(config)
        self.process = (self.accelerator.process_index, self.accelerator.num_processes)
        resume = self._check_output()
        self.records = load_records(config)
        self.data_fingerprint = fingerprint(self.records)
        self.family = load_family(
            str(config.pretrained_teacher_model),
            dtype=DTYPES[config.mixed_precision],
            revision=config.teacher_revision,
            variant=config.variant,
            vae_path=config.pretrained_vae_model_name_or_path,
        )
        self.latent_shape = self.family.latent_shape(config.resolution)
        self._check_resume(resume)
        self.family.pipe.to(self.accelerator.device)
        method = OBJECTIVES[config.objective]
        self.objective = method.build(config, self.family.schedule.to(self.accelerator.device))
        self.recipe = make_recipe(
            method,
            config,
            family=self.family.name,
            cross_attention_dim=self.family.unet.config.cross_attention_dim,
            prediction_type=self.family.schedule.prediction_type,
            zero_terminal_snr=self.family.zero_terminal_snr,
            teacher=str(config.pretrained_teacher_model),
            resolution=config.resolution,
        )
        self._build_student()
        self.max_steps = config.max_train_steps
        if config.num_train_epochs is not None:
            self.max_steps = math.ceil(config.num_train_epochs * len(self.records) / self.samples_per_step)
        self.lr_scheduler = get_scheduler(
            config.lr_scheduler, self.optimizer, num_warmup_steps=config.lr_warmup_steps, num_training_steps=self.max_steps
        )
        self.step = 0
        if resume is not None:
            self._restore(resume)

    @property
    def samples_per_step(self) -> int:
        """Samples of one update over all processes."""
        return self.config.train_batch_size * self.config.gradient_accumulation_steps * self.process[1]

    @property
    def prompts(self) -> list[str]:
        """Prompts of the validation grid."""
        if self.config.validation_prompts:
            return self.config.validation_prompts
        captions = dict.fromkeys(record.captions[0] for record in self.records)
        return list(captions)[:: max(1, len(captions) // 4)][:4]

    # --- building ---------------------------------------------------------------------------------------------------

    def _check_output(self) -> RunState | None:
        """The checkpoint to go on from. Raises before anything is loaded when the folder is taken or cannot be written."""
        if self.config.dry_run:
            return None
        folder = find_checkpoint(self.output_dir, self.config.resume_from_checkpoint)
        taken = (self.output_dir / WEIGHTS_NAME).exists() or list_checkpoints(self.output_dir)
        if taken and self.config.resume_from_checkpoint is None:
            raise ValueError(
                f"output_dir: {self.output_dir} already holds a run, which would be overwritten; pass another --output_dir, or "
                "--resume_from_checkpoint latest to go on with it"
            )
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.output_dir):
                pass
        except OSError as error:
            raise ValueError(f"output_dir: {self.output_dir} cannot be written ({error}); choose another folder") from error
        return None if folder is None else load_checkpoint(folder)

    def _check_resume(self, state: RunState | None) -> None:
        """Raises ValueError when the checkpoint belongs to another run."""
        if state is None:
            return
        where = f"resume_from_checkpoint: step {state.facts['step']} in {self.output_dir}"
        differences = self.config.differences(state.facts["config"])
        if state.facts["samples_per_step"] != self.samples_per_step:
            differences.append(f"samples per update: {state.facts['samples_per_step']} -> {self.samples_per_step}")
        if differences:
            raise ValueError(
                f"{where} was made with another configuration ({'; '.join(differences)}); use the same settings, or start a "
                "new run in another --output_dir"
            )
        if state.facts["data"] != self.data_fingerprint:
            raise ValueError(f"{where} was made with other images or captions; restore the data, or start a new run elsewhere")

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
        self.lr_scheduler.step()
        self.optimizer.zero_grad()
        if self.nets.ema is not None:
            self.nets.ema.update()
        self.step += 1
        return loss.mean(), grad_norm

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
            (self.output_dir / "config.yaml").write_text(config.to_yaml())
            self._rewind_metrics()
        if config.report_to:
            self.accelerator.init_trackers("lcm", config={k: str(v) for k, v in asdict(config).items()})
        logger.info("%s", self.summary())
        if self.step == 0:
            self.validate()
        batches = self.batches(range(self.step, self.max_steps))
        bar = tqdm(total=self.max_steps, initial=self.step, disable=not main, unit="step", desc="distilling", dynamic_ncols=True)
        since, start, window = self.step, time.perf_counter(), torch.zeros((), device=self.accelerator.device)
        while self.step < self.max_steps:
            loss, grad_norm = self.train_step(batches)
            window += loss
            bar.update()
            last = self.step == self.max_steps
            if self.step % config.logging_steps == 0 or last:
                seconds = (time.perf_counter() - start) / (self.step - since)
                metrics = self.log(window / (self.step - since), grad_norm, seconds)
                bar.set_postfix(loss=f"{metrics['loss']:.4f}", lr=f"{metrics['lr']:.1e}")
                window.zero_()
                since, start = self.step, time.perf_counter()
            if self.step % config.checkpointing_steps == 0 or last:
                self.save()
            if self.step % config.validation_steps == 0 and not last:
                self.validate()
        bar.close()
        self.finish()

    def log(self, loss: Tensor, grad_norm: Tensor, seconds_per_step: float) -> dict[str, float]:
        """One line of metrics.jsonl: means since the last line over all processes; the norm is that of the last update."""
        metrics = {
            "step": self.step,
            "epoch": round(self.step * self.samples_per_step / len(self.records), 4),
            "loss": self.accelerator.reduce(loss, reduction="mean").item(),
            "grad_norm": float(grad_norm),
            "lr": self.lr_scheduler.get_last_lr()[0],
            "seconds_per_step": round(seconds_per_step, 4),
            "samples_per_second": round(self.samples_per_step / seconds_per_step, 3),
        }
        if self.accelerator.is_main_process:
            with (self.output_dir / METRICS_NAME).open("a") as file:
                file.write(json.dumps(metrics) + "\n")
        if self.config.report_to:
            self.accelerator.log(metrics, step=self.step)
        return metrics

    def _rewind_metrics(self) -> None:
        """Drops lines after the step that the run goes on from: an interrupted run wrote them and they will come again."""
        path = self.output_dir / METRICS_NAME
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
        partial = path.with_suffix(".part")
        partial.write_text("".join(kept))
        partial.replace(path)

    def validate(self) -> None:
        """Draws the grid with the live student and keeps it as validation/step-<step>.png."""
        unet = self.nets.unet
        unet.eval()
        grid = self.draw(unet, self.process)
        unet.train()
        if self.accelerator.is_main_process:
            folder = self.output_dir / "validation"
            folder.mkdir(exist_ok=True)
            grid.save(folder / f"step-{self.step:06d}.png")
            for tracker in self.accelerator.trackers:
                tracker.log_images({"validation": torch.from_numpy(pil_to_array(grid))[None]}, step=self.step, dataformats="NHWC")

    def draw(self, unet: Any, process: tuple[int, int]) -> Image.Image:
        pipe = self.family.few_step_pipe(unet, make_scheduler(self.family.pipe.scheduler.config, self.recipe))
        spec = GridSpec(
            prompts=self.prompts,
            num_steps=self.config.validation_num_steps,
            seed=self.config.validation_seed,
            resolution=self.config.resolution,
            guidance_scale=self.recipe.guidance_scale,
        )
        return draw_grid(self.family, pipe, spec, process)

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
        self.step = state.facts["step"]
        logger.info("resuming after step %d", self.step)

    def save(self) -> None:
        """A checkpoint: the state to go on from, and the adapter as it is now, ready to load."""
        if self.accelerator.is_main_process:
            save_checkpoint(self.output_dir, self.step, self._state(), lambda folder: self.export(folder / WEIGHTS_NAME))
            prune_checkpoints(self.output_dir, self.config.checkpoints_total_limit)
        self.accelerator.wait_for_everyone()

    def export(self, path: Path) -> Any:
        """Writes the adapter and reloads it; returns the reloaded U-Net. Raises RuntimeError when it is not the same."""
        training = {
            "ss_steps": str(self.step),
            "ss_learning_rate": str(self.config.learning_rate),
            "ss_mixed_precision": self.config.mixed_precision,
        }
        export_lora(self.nets.unet, path, self.recipe, training=training)
        return verify_export(self.nets.unet, path, type(self.family.pipe))

    def finish(self) -> None:
        if self.accelerator.is_main_process:
            reloaded = self.export(self.output_dir / WEIGHTS_NAME)
            (self.output_dir / "images").mkdir(exist_ok=True)
            self.draw(reloaded, (0, 1)).save(self.output_dir / "images" / "grid.png")
            write_card(self.output_dir, self.recipe, self.config, self.prompts)
            logger.info(
                "done: %s, verified by reloading it. Use it with\n"
                "    lcm.attach(pipe, %r)\n"
                "    pipe(prompt, num_inference_steps=4, guidance_scale=%s)",
                self.output_dir / WEIGHTS_NAME,
                str(self.output_dir),
                self.recipe.guidance_scale,
            )
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    # --- knowing beforehand -----------------------------------------------------------------------------------------

    def summary(self) -> str:
        """What is about to be trained, in one line."""
        trained = sum(p.numel() for p in self.parameters)
        frozen = sum(p.numel() for p in self.nets.unet.parameters()) - trained
        epochs = self.max_steps * self.samples_per_step / len(self.records)
        guidance = " to ".join(f"{g:g}" for g in dict.fromkeys(self.config.guidance_range))
        return (
            f"{self.family.name} teacher, {self.family.schedule.prediction_type}; U-Net {frozen / 1e6:.1f} M parameters frozen in "
            f"{str(self.nets.dtype).removeprefix('torch.')}, {trained / 1e6:.2f} M trained (with gradients and AdamW "
            f"{trained * 16 / 2**20:.0f} MiB); {len(self.records)} samples, {self.samples_per_step} an update, "
            f"{self.max_steps} updates = {epochs:.1f} epochs; distilling guidance_scale {guidance}"
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
                path = Path(folder) / WEIGHTS_NAME
                self.export(path)
                size = path.stat().st_size
            logger.info("adapter: %.1f MiB, saved, reloaded and compared", size / 2**20)
        logger.info("peak memory: %s", peak_memory())
        self.accelerator.wait_for_everyone()


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Raises ValueError for a launch that is not what it seems, or a tracker that is not installed."""
    if config.report_to == "tensorboard":
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise ValueError(
                "report_to: tensorboard is not installed; pip install tensorboard, or leave --report_to out"
            ) from error
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.report_to,
        project_dir=str(Path(config.output_dir) / config.logging_dir) if config.report_to else None,
        step_scheduler_with_optimizer=False,
    )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and accelerator.num_processes == 1:
        raise ValueError(
            "several processes were launched but each thinks it is alone; on a machine without GPUs launch with "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N"
        )
    torch.backends.cuda.matmul.allow_tf32 = config.allow_tf32
    return accelerator


def peak_memory() -> str:
    """Of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU"
    import resource

    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of this process"


def pil_to_array(image: Image.Image) -> Any:
    import numpy as np

    return np.array(image)
