"""What a full-size step with terms and a second network costs beside one of `lcm`, counted without
weights or GPU: `results/term_counts.json`.

    python -m benchmarks.term_counts   # what is counted already is not counted again

As `counts` does it, with one picture: the student's way there and back, then the critics' updates
that follow it, which are all alike, so that one is counted. Every term counts, as it does once it
has begun. Of `dmd` the passes in which the student plays up to x_t are counted by their mean. The
optimizer's arithmetic is not in it; its memory is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.counts import (
    DTYPE,
    RANK,
    RESULTS,
    build_batch,
    build_loss,
    build_unet,
    numbers_in,
)
from benchmarks.device_law.law import remembered
from benchmarks.meters import Cost, KernelMeter, flash_attention
from benchmarks.methods.teacher import write_json
from benchmarks.published import MODELS, Model
from benchmarks.term_tables import NAME, UNIT, term_counts_table
from lcm.adapter.lora import add_lora
from lcm.methods.config import MethodConfig, resolved
from lcm.methods.context import Landed, LatentBatch, LossContext
from lcm.methods.dmd import PlayedByStudent
from lcm.methods.objective import Objective
from lcm.models.gradient_checkpointing import recomputing
from lcm.models.networks import Networks
from lcm.models.second import SecondNetwork
from lcm.system.memory import LiveMemory, tensors_in

STEPS: dict[str, dict[str, Any]] = {
    UNIT: {},
    "lcm + latent_perceptual": {"terms": ["latent_perceptual"]},
    "lcm + adversarial": {"terms": ["adversarial"]},
    "lcm + dmd": {"terms": ["dmd"]},
    "dmd": {"objective": "dmd"},
    "hyper": {"objective": "hyper"},
}
"""What is counted, with the flags that ask for it."""
MODES = ("no", "full", "selective")
"""Values of --gradient_checkpointing, in the order in which they are counted."""
COUNTED = ("sd15", "sdxl")
PROGRESS = 0.9
"""Share of the run that is done, by which every term has begun."""


class Remembered(TorchDispatchMode):
    """Operations on tensors without memory, faster."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = tensors_in((args, kwargs))
        if given and all(tensor.is_meta for tensor in given):
            return remembered(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class NoPlay:
    """Stands for the student's play up to x_t, whose length is in the random numbers of a sample,
    which tensors without memory do not have.
    """

    noises: int

    def __call__(self, objective: Objective, context: LossContext) -> Tensor:
        return context.batch.noise


def mean_passes(simulation: PlayedByStudent) -> float:
    """How many passes a sample has before that with gradients, over all that can be drawn."""
    _, place = simulation.times.on_their_way((torch.arange(10_000) + 0.5) / 10_000)
    return float(place.float().mean())


@contextmanager
def counting(found: list[tuple[Cost, int]]) -> Iterator[None]:
    """What the block takes is added to `found`: its cost, and the most bytes that it has alive."""
    with Remembered(), flash_attention(), LiveMemory() as memory, KernelMeter() as meter:
        yield
        found.append((meter.total(), memory.peak))


def forget(parameters: Iterable[nn.Parameter]) -> None:
    """Their gradients, which must be there."""
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad = None


def count_critics(nets: Networks, objective: Objective, landed: Landed) -> tuple[Cost, int]:
    """One update of the critics, as `lcm.training.step` makes it."""
    found: list[tuple[Cost, int]] = []
    second = nets.second_network
    is_second = any(critic.is_second for critic in objective.critics)
    assert second is not None
    with second.learning() if is_second else nullcontext(), counting(found):
        losses = objective.critic_losses(landed, 0)
        torch.stack(list(losses.values())).sum(0).mean().backward()
    forget(p for critic in objective.critics for p in critic.parameters)
    if is_second:
        forget(second.parameters)
    return found[0]


def count_update(nets: Networks, objective: Objective, batch: LatentBatch) -> dict[str, Any]:
    """FLOPs and the peak of one update, as `lcm.training.step` makes it."""
    found: list[tuple[Cost, int]] = []
    times: list[float] = [1.0]
    played = objective.simulation
    if isinstance(played, PlayedByStudent):
        objective = replace(objective, simulation=NoPlay(played.noises))
    with counting(found):
        output = objective(nets, batch, PROGRESS)
        output.loss.mean().backward()
    forget(p for p in nets.unet.parameters() if p.requires_grad)
    landed = output.landed
    del output
    if landed is not None:
        found.append(count_critics(nets, objective, landed))
        times.append(objective.critic_updates)
    if isinstance(played, PlayedByStudent):
        with counting(found):
            nets.target(batch.noise, batch.uniform_time.long(), batch.cond)
        times.append(mean_passes(played))
    return {
        "flops": round(sum(n * cost.flops for n, (cost, _) in zip(times, found, strict=True))),
        "peak_bytes": max(peak for _, peak in found),
    }


def held_numbers(objective: Objective, flags: dict[str, Any]) -> dict[str, int]:
    """What a step has besides the student, in trained numbers: whether the target is an average,
    whether there is a second network, how large the heads are.
    """
    heads = sum(p.numel() for critic in objective.critics for p in critic.parameters)
    return {
        "averages": int(resolved(MethodConfig(**flags)).ema_decay is not None),
        "second": int(any(critic.is_second for critic in objective.critics)),
        "heads": heads,
    }


def count_model(
    model: Model,
    known: dict[str, Any],
    save: Callable[[], object],
    modes: Sequence[str] = MODES,
    names: Sequence[str] = tuple(STEPS),
) -> None:
    """Adds to `known` what it lacks of these steps and ways of checkpointing, calling `save` after
    each.
    """
    unet = build_unet(model)
    with torch.device("meta"):
        frozen = numbers_in(unet)
        parameters = add_lora(unet, RANK)
        encoders = [encoder.to(DTYPE) for encoder in model.encoders()]
        known |= {
            "title": f"{model.title} at {model.resolution}",
            "parameters": {
                "unet": frozen,
                "trained": sum(p.numel() for p in parameters),
                "vae": numbers_in(model.autoencoder()),
                "text": sum(map(numbers_in, encoders)),
            },
        }
    second = SecondNetwork(unet, parameters, [torch.empty_like(p) for p in parameters])
    nets = Networks(unet, second_network=second)
    steps = known.setdefault("steps", {})
    for mode in modes:
        for name in names:
            if mode in steps.get(name, {}).get("modes", {}):
                continue
            flags = STEPS[name]
            objective = build_loss(unet, **flags)
            numbers = objective.extra_numbers
            batch = build_batch(model, unet.config.cross_attention_dim, 1, numbers)
            found = steps.setdefault(name, {"modes": {}, **held_numbers(objective, flags)})
            with recomputing(unet, mode, "no"):
                found["modes"][mode] = count_update(nets, objective, batch)
            save()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(COUNTED), choices=list(COUNTED))
    parser.add_argument("--results_dir", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    path = args.results_dir / NAME
    results = json.loads(path.read_text()) if path.exists() else {"models": {}}
    results |= {"torch": torch.__version__, "rank": RANK}
    for name in args.models:
        known = results["models"].setdefault(name, {})
        count_model(MODELS[name], known, lambda: write_json(path, results))
    print(term_counts_table(results))


if __name__ == "__main__":
    main()
