"""Setting up a run, in order: machine, resume, workspace, teachers and data, facts, what is
computed once, student, outputs. Whatever can be wrong with a command is found as early as it can
be.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Any

from diffusers.optimization import get_scheduler

from lcm.adapter.recipe import Recipe, TeacherFacts
from lcm.config.output_sections import MEASURED_PROMPTS, OutputConfig
from lcm.config.run import TrainConfig
from lcm.config.sections import LoopConfig
from lcm.data.config import CacheConfig
from lcm.data.loaded import LoadedData
from lcm.data.records import fingerprint
from lcm.data.report import make_report
from lcm.methods import METHODS
from lcm.methods.build import build_objective, make_recipe
from lcm.methods.config import MethodConfig
from lcm.methods.objective import Objective
from lcm.methods.perceptual import make_lpips
from lcm.models.families import Family
from lcm.models.prompts import Lengths
from lcm.outputs.checkpoint import RunState
from lcm.outputs.resume import check_same_command, check_together, open_together
from lcm.outputs.validation import prompts_of
from lcm.publish.hub import check_may_push
from lcm.system.processes import Team
from lcm.training.critics import make_critics
from lcm.training.init_adapter import FirstAdapter
from lcm.training.inputs import (
    encode_once,
    load_inputs,
    make_buckets,
    make_inputs,
    resolution_of,
)
from lcm.training.launch import Machine, make_machine
from lcm.training.learning_rate import with_rate
from lcm.training.prompts import check_prompts, measure_prompts
from lcm.training.publisher import Publisher
from lcm.training.result import kind_of
from lcm.training.run import Run, RunFacts
from lcm.training.state import TrainState
from lcm.training.student import Student, build_student
from lcm.training.teachers import FrozenWeights, caution, identify_styles, styles_of
from lcm.training.term_parts import FromOutside, decodes, make_parts
from lcm.training.workspace import RunWorkspace, TemporaryWorkspace, Workspace

logger = logging.getLogger(__name__)


def build_run(config: TrainConfig) -> tuple[Run, TrainState]:
    """A run ready to go, and its state: that of a checkpoint where it goes on with one.

    Raises ValueError or OSError that names the flag and the fix, AlreadyFinished when nothing is
    left to do.
    """
    machine = make_machine(config.loop, config.output, config.optimizer)
    check_same_command(config.flat(), machine.team)
    saved = open_together(config.output, machine.accelerator, machine.team)
    workspace = open_workspace(config.loop, config.cache, config.output, machine.team)
    check_may_push(config.hub, config.output.folder, machine.team, create=workspace.is_kept)
    check_prompts(config)
    outside = machine.team.together(lambda: FromOutside.load(config.method))
    styles = identify_styles(config.teacher, machine.team)
    kind = kind_of(config.adapter)
    kind.check_styles(styles_of(config.teacher))
    families, loaded = load_inputs(config, machine, workspace)
    config = with_rate(config, families[0])
    lengths = measure_prompts(config, families, loaded)
    facts = make_facts(config, machine, families[0], loaded, styles, lengths)
    if saved is not None:
        free = config.free_to_change()
        check_together(saved, config.output, free, facts.record(), machine.team)
    objective = make_objective(config.method, families[0], machine, outside)
    # before trajectories are drawn for hours with the U-Net that it has to fit
    first = machine.team.together(lambda: kind.load_first(config.adapter, families[0]))
    inputs = make_inputs(config, machine, workspace, families, loaded, objective.extra_numbers)
    # what no step asks for gives its memory to the student, which comes next
    offload(families, config.method, config.cache, draws=config.data.prompts_file is not None)
    student = build_student(config, families[0], machine.accelerator, first, objective)
    run = Run(
        config=config,
        facts=facts,
        machine=machine,
        workspace=workspace,
        families=families,
        weights=FrozenWeights(student.unet, [family.unet for family in families[1:]]),
        loaded=loaded,
        inputs=inputs,
        objective=objective,
        publisher=make_publisher(config, facts, machine, families[0], student, first),
        accumulation=config.loop.gradient_accumulation_steps,
    )
    return run, make_state(run, student, saved)


def open_workspace(
    loop: LoopConfig, cache: CacheConfig, output: OutputConfig, team: Team
) -> Workspace:
    """Real folders, or temporary ones for a dry run, which needs no more samples than a batch: the
    one place that asks.
    """
    if loop.dry_run:
        return TemporaryWorkspace.open(cache, loop.train_batch_size)
    return RunWorkspace.open(output.folder, cache, team)


def make_facts(
    config: TrainConfig,
    machine: Machine,
    family: Family,
    loaded: LoadedData,
    styles: list[list[Any]],
    lengths: Lengths | None = None,
) -> RunFacts:
    """Fills in what only the teacher and the data know, and logs what the data are; `lengths` are
    those of their captions.
    """
    loop, records = config.loop, loaded.records
    samples = loop.train_batch_size * loop.gradient_accumulation_steps * machine.process[1]
    updates = loop.max_train_steps
    if loop.num_train_epochs is not None:
        updates = math.ceil(loop.num_train_epochs * len(records) / samples)
    resolution = resolution_of(config.samples, family)
    prompts = config.validation.own_prompts
    buckets = make_buckets(config.samples, family, loaded)
    report = make_report(loaded, resolution, buckets, lengths)
    for line in report.lines():
        logger.info("%s", line)
    filled = {
        "resolution": resolution,
        "max_train_steps": updates,
        "num_train_epochs": None,
    }
    return RunFacts(
        resolution=resolution,
        num_updates=updates,
        samples_per_step=samples,
        fingerprint=fingerprint(records),
        styles=styles,
        settings={**config.flat(), **filled},
        report=report,
        prompts=prompts or prompts_of(records),
        captions=prompts_of(records, MEASURED_PROMPTS) if config.validation.evaluate_steps else [],
    )


def make_objective(
    config: MethodConfig,
    family: Family,
    machine: Machine,
    outside: FromOutside | None = None,
) -> Objective:
    """The loss on the device, with a warning of what is known to go wrong with this teacher."""
    if (warning := caution(family, config.target)) is not None:
        logger.warning("%s", warning)
    perceptual = None
    if config.loss_type == "lpips":
        perceptual = make_lpips(family.pixels, machine.device)
    outside = outside or FromOutside.load(config)
    parts = make_parts(config, family, machine.device, outside)
    return build_objective(config, family.schedule.to(machine.device), perceptual, parts)


def offload(
    families: Sequence[Family], method: MethodConfig, cache: CacheConfig, *, draws: bool
) -> None:
    """Moves into main memory what no step asks for: with a cache the text encoders, with a cache or
    trajectories, which prompts alone are drawn along, the VAE.
    """
    encodes = not cache.cache_latents
    uses_vae = decodes(method) or (encodes and not draws)
    for family in families:
        text = [] if encodes else family.text_encoders()
        family.park(text if uses_vae else [family.pipe.vae, *text])


def build_recipe(
    config: TrainConfig, family: Family, resolution: int, first: Recipe | None
) -> Recipe:
    """How the trained file must be sampled with. `first` is the recipe of the adapter that the run
    starts from.
    """
    facts = TeacherFacts(
        family=family.name,
        cross_attention_dim=family.unet.config.cross_attention_dim,
        prediction_type=family.schedule.prediction_type,
        zero_terminal_snr=family.zero_terminal_snr,
        teacher=config.teacher.path,
        resolution=resolution,
        teacher_loras=[style.facts() for style in styles_of(config.teacher)],
        extra_teachers=config.teacher.extra_teachers,
        clip_skip=config.teacher.clip_skip,
        prompt_chunks=family.chunks,
    )
    recipe = make_recipe(config.method, facts).public()
    if config.adapter.w_embedding:
        # the value that the pipeline embeds; it guides nothing by itself
        middle = sum(config.method.guidance_range) / 2
        recipe = dataclasses.replace(recipe, guidance_scale=middle)
    # without a teacher, the adapter keeps the guidance it has
    if first is not None and not METHODS[config.method.objective].has_teacher:
        recipe = dataclasses.replace(
            recipe,
            trained_guidance_scale=first.trained_guidance_scale,
            guidance_scale=first.guidance_scale,
        )
    return recipe


def make_publisher(
    config: TrainConfig,
    facts: RunFacts,
    machine: Machine,
    family: Family,
    student: Student,
    first: FirstAdapter | None,
) -> Publisher:
    """What draws and exports the student."""
    recipe = build_recipe(config, family, facts.resolution, first.recipe if first else None)
    return Publisher(
        config=config,
        settings=facts.settings,
        accelerator=machine.accelerator,
        family=family,
        recipe=recipe,
        prompts=facts.prompts,
        captions=facts.captions,
        student=student,
    )


def make_state(run: Run, student: Student, saved: RunState | None) -> TrainState:
    """The state of a run that begins, or goes on from a checkpoint."""
    optimizer = run.config.optimizer
    critics = make_critics(
        optimizer,
        run.objective,
        student.nets.second_network,
        run.machine.accelerator,
        run.facts.num_updates,
    )
    scheduler = get_scheduler(
        optimizer.lr_scheduler,
        student.optimizer,
        num_warmup_steps=optimizer.lr_warmup_steps or 0,
        num_training_steps=run.facts.num_updates,
    )
    state = TrainState(student, scheduler, run.machine.accelerator.scaler, critics)
    if saved is not None:
        state.restore(saved, run.machine.device)
    return state


def build_cache(config: TrainConfig) -> None:
    """Encodes the data of a run without training."""
    machine = make_machine(config.loop, config.output, config.optimizer)
    check_same_command(config.flat(), machine.team)
    check_prompts(config)
    workspace = RunWorkspace.open(config.output.folder, config.cache, machine.team)
    families, data = load_inputs(config, machine, workspace)
    measure_prompts(config, families, data)
    encode_once(config, families, data, workspace)
