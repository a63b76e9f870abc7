"""What is known of a run before it begins: what is trained, how much is to come, what it takes on
disk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from lcm.methods import METHODS
from lcm.outputs.checkpoint import RunState, list_checkpoints
from lcm.outputs.saving import bytes_of_checkpoint, bytes_of_trained
from lcm.system.disk_space import Need, readable
from lcm.system.text import count
from lcm.training.run import Run
from lcm.training.state import TrainState

LABEL = 2**14
"""Bytes that a prompt takes beside its row of pictures, and more."""
PAGES = 4 * 2**20
"""Bytes for all that is for reading: report, card, settings, lines of metrics."""


def summarize(run: Run, state: TrainState) -> str:
    """What is about to be trained, in one line."""
    config, facts, family = run.config, run.facts, run.family
    trained = sum(p.numel() for p in state.student.parameters)
    frozen = sum(p.numel() for p in family.unet.parameters() if not p.requires_grad)
    samples = len(run.loaded.records)
    epochs = facts.num_updates * facts.samples_per_step / samples
    guidance = " to ".join(f"{g:g}" for g in dict.fromkeys(config.method.guidance_range))
    # bytes: weight, gradient, two moments
    each, optimizer = (10, "8-bit AdamW") if config.optimizer.use_8bit_adam else (16, "AdamW")
    extra = len(config.teacher.extra_teachers)
    teachers = f"mixture of {1 + extra} teachers" if extra else "teacher"
    predicts = family.schedule.prediction_type
    predicts += ", zero terminal SNR" if family.zero_terminal_snr else ""
    objective = config.method.objective
    experimental = " (experimental)" if METHODS[objective].experimental else ""
    return (
        f"{family.name} {teachers}, {predicts}; U-Net {frozen / 1e6:.1f} M "
        f"parameters frozen in {str(family.unet.dtype).removeprefix('torch.')}, "
        f"{trained / 1e6:.2f} M trained (with gradients and {optimizer} "
        f"{readable(trained * each)}); {samples} samples, {facts.samples_per_step} an update, "
        f"{facts.num_updates} updates = {epochs:.1f} epochs; "
        f"{objective}{experimental}, guidance_scale {guidance}{about_empty_prompts(run)}"
        f"{about_terms(run, state, each)}"
    )


def about_terms(run: Run, state: TrainState, each: int) -> str:
    """The terms with their weights, and what learns beside the student, of whose numbers `each`
    takes so many bytes; "" for nothing.
    """
    terms = ", ".join(f"{term.name} {term.weight:g}" for term in run.objective.terms)
    if not terms:
        return ""
    if state.critics is None:
        return f"; terms {terms}"
    learnt = sum(p.numel() for p in state.critics.parameters)
    names = " and ".join(critic.name for critic in run.objective.critics)
    return (
        f"; terms {terms}, critics {names} ({learnt / 1e6:.2f} M, {readable(learnt * each)}), "
        f"{count(run.objective.critic_updates, 'update')} of them for each of the student"
    )


def about_empty_prompts(run: Run) -> str:
    """How much of the training teaches the half that guidance leads away from; "" for nothing."""
    empty = run.config.samples.proportion_empty_prompts
    return f", {empty:.0%} empty prompts" if empty else ""


def duration(seconds: float) -> str:
    """A time as people say it: 0.4 s, 12 s, 0:03:20."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


@dataclass(frozen=True)
class Plan:
    """What a run is still going to do: updates, checkpoints, grids with that of the finished
    adapter, evaluations likewise. `together` is how many more checkpoints lie on the disk at once
    than now.
    """

    updates: int
    checkpoints: int
    grids: int
    together: int
    evaluations: int = 0


def plan_of(run: Run, step: int) -> Plan:
    """The plan of a run that has made `step` updates."""
    output, last = run.config.output, run.facts.num_updates
    every, validation = output.checkpointing_steps, run.config.validation
    checkpoints = last // every - step // every + (last % every > 0) if step < last else 0

    def drawn(interval: int) -> int:
        """How often something is drawn, the finished adapter with it."""
        return max(0, (last - 1) // interval - step // interval) + (step == 0) + 1

    grids = drawn(validation.validation_steps) if validation.draws else 0
    evaluations = drawn(validation.evaluate_steps) if validation.evaluate_steps else 0
    together, keep = checkpoints, output.checkpoints_total_limit
    if keep is not None and checkpoints:
        # the new one is complete before the oldest goes
        together = min(checkpoints, max(1, keep + 1 - len(list_checkpoints(output.folder))))
    return Plan(last - step, checkpoints, grids, together, evaluations)


def output_need(run: Run, plan: Plan, checkpoint: int, result: int, grid: int) -> Need:
    """What the output folder needs, from the bytes of a checkpoint, of the result and of a grid,
    the last of which is kept twice.
    """
    output = run.config.output
    pictures = (plan.grids + 1) * grid + bytes_of_teacher(run) if plan.grids else 0
    fixes = ["choose another --output_dir"]
    if plan.together > 3:
        rarer = 4 * output.checkpointing_steps
        fixes.insert(0, f"pass --checkpoints_total_limit 2 or --checkpointing_steps {rarer}")
    nbytes = plan.together * checkpoint + result + pictures + PAGES
    grids = f", {plan.grids} grids" if plan.grids else ""
    what = f"{plan.together} checkpoints{grids} and the result"
    return Need(output.folder, nbytes, what, ", or ".join(fixes))


def bytes_of_teacher(run: Run) -> int:
    """Bytes of the latents of the teacher's own pictures."""
    validation, shape = run.config.validation, run.family.latent_shape(run.facts.resolution)
    if not validation.validation_teacher_steps:
        return 0
    shown = len(run.facts.prompts) * validation.num_images
    measured = len(run.facts.captions) * validation.measured_images
    return 4 * (shown + measured) * math.prod(shape)


def guess_output_need(run: Run, plan: Plan, state: RunState) -> Need:
    """What the output folder needs when nothing was measured: from the state that a checkpoint
    would hold, moments of AdamW or not, and the largest pictures that there are.
    """
    trained = bytes_of_trained(state)
    moments = missing_moments(state, "trained", "optimizer")
    moments += missing_moments(state, "critics", "critics_optimizer")
    columns = len(run.config.validation.validation_num_steps) + 1
    pictures = len(run.facts.prompts) * columns
    grid = pictures * 3 * run.facts.resolution**2 + len(run.facts.prompts) * LABEL
    checkpoint = bytes_of_checkpoint(state) + moments
    return output_need(run, plan, checkpoint, trained, grid)


def missing_moments(state: RunState, learnt: str, optimizer: str) -> int:
    """The bytes of the two moments of all tensors of the kind `learnt` that have none yet, of which
    the `optimizer` has the numbers.
    """

    def numbered(kind: str) -> dict[str, int]:
        return {
            name.split(".")[1]: tensor.nbytes
            for name, tensor in state.tensors.items()
            if name.startswith(f"{kind}.")
        }

    known = numbered(optimizer)
    return sum(2 * nbytes for i, nbytes in numbered(learnt).items() if i not in known)
