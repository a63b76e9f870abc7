"""What a card says of the training: rows of its table, each a name and a text (None: no row), and
the settings that differ from the method's own.
"""

from __future__ import annotations

from typing import Any

import yaml

from lcm.adapter.recipe import Recipe
from lcm.config.run import FREE_TO_CHANGE, PLACES
from lcm.config.sections import AdapterConfig, LoopConfig, OptimizerConfig
from lcm.data.config import SOURCE_FLAGS, DataConfig
from lcm.methods import METHODS
from lcm.methods.config import MethodConfig
from lcm.methods.terms.build import read_terms
from lcm.publish.outcome import Outcome, duration
from lcm.publish.usage import guidance_range, styles_in_words
from lcm.publish.wording import Wording
from lcm.system.public_names import on_the_hub, public_name
from lcm.system.text import code, count, markdown, visible

Facts = dict[str, str | int | None]


def teacher_facts(recipe: Recipe, teacher: str) -> Facts:
    """The models that were distilled, the first by its public name, and their guidance."""
    zero_snr = ", zero terminal SNR" if recipe.zero_terminal_snr else ""
    others = ", ".join(code(public_name(path)) for path in recipe.extra_teachers)
    return {
        "teacher": f"{code(teacher)} ({recipe.prediction_type}{zero_snr})",
        "extra teachers": others or None,
        "style LoRAs in the teacher": styles_in_words(recipe.teacher_loras) or None,
        "guidance_scale of the teacher": guidance_range(recipe),
        "method": markdown(recipe.objective),
    }


def method_facts(method: MethodConfig) -> Facts:
    """Solver, loss and target."""
    steps = "1 step" if method.solver_steps == 1 else f"{method.solver_steps} steps"
    solver = f"{markdown(method.solver)}, {steps} a pair"
    if method.solver_steps is None:
        choices = {"coupling": method.coupling, "tangent_mode": method.tangent_mode}
        named = [f"{name} {markdown(value)}" for name, value in choices.items() if value]
        solver = f"none: {named[0] if named else 'no teacher'}"
    grid = f", grid of {method.num_ddim_timesteps}" if method.num_ddim_timesteps else ""
    huber_c = f", c = {method.huber_c:g}" if method.huber_c else ""
    if METHODS[method.objective].compares == "nothing":
        only = {"solver": f"none: scores are compared{grid}", "loss": "its terms alone"}
        return {**only, **term_facts(method)}
    decay = f", decay {method.ema_decay:g}" if method.target == "ema" else ""
    if method.ema_schedule == "cm":
        decay += " at the start, rising with the grid"
    return {
        "solver": solver + grid,
        "loss": f"{markdown(method.loss_type)}{huber_c}",
        "target": (method.target or "the teacher's own point") + decay,
        **term_facts(method),
    }


def term_facts(method: MethodConfig) -> Facts:
    """What was added to the loss, with its weights, and what learnt against the student."""
    weights = read_terms(method.terms or ())
    later = {"dmd": f" from {method.dmd_start:.0%} of the run on"} if method.dmd_start else {}
    named = [f"{markdown(n)} {weight:g}{later.get(n, '')}" for n, weight in weights.items()]
    updates = method.critic_updates
    return {
        "terms": ", ".join(named) or None,
        "critics": None
        if updates is None
        else f"{count(updates, 'update')} for each of the adapter",
    }


def result_facts(adapter: AdapterConfig, words: Wording) -> Facts:
    """What was trained, and from what it started."""
    alpha = adapter.lora_alpha if adapter.lora_alpha is not None else adapter.lora_rank
    start = adapter.init_adapter
    return {
        "trained": words.trained.format(rank=adapter.lora_rank, alpha=alpha),
        "starts from": None if start is None else code(public_name(start)),
    }


def data_facts(data: DataConfig, samples: int | None) -> Facts:
    """Data on the hub by its name, other data by its kind; how many samples, where it is known."""
    name = SOURCE_FLAGS[data.source]
    if on_the_hub(data.dataset_name):
        name = code(data.dataset_name)
    return {"data": name if samples is None else f"{name}, {samples} samples"}


def loop_facts(loop: LoopConfig, optimizer: OptimizerConfig, updates: int, side: int) -> Facts:
    """How long, how fast and in which precision; `side` is that of the pictures in pixels."""
    given = optimizer.learning_rate
    rate = "by the U-Net's width" if given is None else f"{given:g}"
    critics = optimizer.critic_learning_rate
    return {
        "updates": updates,
        "samples per update": (
            f"{loop.train_batch_size} x {loop.gradient_accumulation_steps} per process"
        ),
        "learning rate": f"{rate}, {optimizer.lr_scheduler}",
        "learning rate of critics": None if critics is None else f"{critics:g}",
        "resolution": side,
        "precision": "float32" if loop.mixed_precision == "no" else loop.mixed_precision,
    }


def effort_facts(outcome: Outcome) -> Facts:
    """How long training alone took, and on what."""
    if outcome.seconds is None:
        return {}
    machine = "a CPU" if outcome.machine is None else code(outcome.machine)
    return {"took": f"{duration(outcome.seconds)} on {machine}"}


def settings_text(changes: dict[str, Any]) -> str:
    """Settings that differ from the method's defaults as a --config file, without those that name
    files and those that do not shape the training.
    """
    left_out = (FREE_TO_CHANGE | PLACES) - {"train_batch_size", "gradient_accumulation_steps"}
    shown = {
        name: value for name, value in changes.items() if name not in left_out and value is not None
    }
    return yaml.safe_dump(visible(shown), sort_keys=True, allow_unicode=True).strip()
