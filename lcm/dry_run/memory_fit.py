"""Whether a run fits into memory, as measured at some batch sizes, and which knob to turn where it
does not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from lcm.config.run import TrainConfig
from lcm.system.disk_space import readable

TIGHT = 0.92
"""Share of the memory from which on it is called tight: fragments and libraries take the rest."""
HALF = "fp16" if torch.cuda.is_available() else "bf16"
"""What every GPU computes in, and CPUs."""
UNET, ENCODERS, TRAINED, MOMENTS, AVERAGES = (
    "U-Net",
    "VAE and text encoders",
    "trained",
    "moments",
    "averages",
)
"""What is held between steps."""
ENCODING, UPDATE = "encoding", "update"
"""Parts of a step: pixels and prompts to latents and embeddings; teacher, student, gradients,
optimizer.
"""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. `held` between steps, by what; the most on top of that: `steps` of the
    parts of a step by batch size, `besides` of saving and drawing. `recomputing` is the peak at the
    batch size of the run by value of --gradient_checkpointing, where it was asked for. `ran_out`:
    the largest size that was tried is the largest that fits, whatever the figures say.
    """

    total: int
    held: Mapping[str, int]
    steps: Mapping[int, Mapping[str, int]]
    besides: Mapping[str, int]
    recomputing: Mapping[str, int] = field(default_factory=dict)
    ran_out: bool = False

    @property
    def between(self) -> int:
        return sum(self.held.values())

    def part(self, name: str, batch_size: int) -> float:
        """Of one part of a step, linear in the batch size: through the smallest and the largest
        that were measured.
        """
        small, large = min(self.steps), max(self.steps)
        low, high = self.steps[small][name], self.steps[large][name]
        if small == large:
            return low * batch_size / small
        return low + (high - low) / (large - small) * (batch_size - small)

    def above(self, batch_size: int) -> int:
        """Of a step, measured or predicted."""
        return round(max(self.part(name, batch_size) for name in (ENCODING, UPDATE)))

    def peak(self, batch_size: int) -> int:
        """Of the run."""
        return self.between + max([self.above(batch_size), *self.besides.values()])

    def largest(self) -> int:
        """The largest batch size that is predicted to fit without being tight; 0 where none
        does.
        """
        return bisect_right(range(1, 1 << 20), TIGHT * self.total, key=self.peak)


def worst(memories: Sequence[Memory]) -> Memory:
    """The most of every entry: what all processes must have room for."""

    def most(entries: Sequence[Mapping[str, int]]) -> dict[str, int]:
        return {
            name: max(entry.get(name, 0) for entry in entries)
            for name in dict.fromkeys(n for e in entries for n in e)
        }

    return Memory(
        total=min(memory.total for memory in memories),
        held=most([memory.held for memory in memories]),
        steps={
            size: most([memory.steps[size] for memory in memories]) for size in memories[0].steps
        },
        besides=most([memory.besides for memory in memories]),
    )


# --- the knobs ------------------------------------------------------------------------------------


def of_half_precision(config: TrainConfig, memory: Memory) -> int:
    frozen = memory.held.get(UNET, 0) + memory.held.get(ENCODERS, 0)
    return (
        memory.between - frozen // 2 + (memory.peak(config.train_batch_size) - memory.between) // 2
    )


def of_encoding_beforehand(config: TrainConfig, memory: Memory) -> int:
    """The encoders then are on a GPU for drawing alone."""
    update = memory.between + round(memory.part(UPDATE, config.train_batch_size))
    parked = (
        memory.held.get(ENCODERS, 0)
        if torch.cuda.is_available() and config.loss_type != "lpips"
        else 0
    )
    return max(update - parked, memory.between + max([0, *memory.besides.values()]))


def of_8bit_moments(config: TrainConfig, memory: Memory) -> int:
    return memory.peak(config.train_batch_size) - memory.held.get(MOMENTS, 0) * 3 // 4


def of_half_rank(config: TrainConfig, memory: Memory) -> int:
    trained = sum(memory.held.get(name, 0) for name in (TRAINED, MOMENTS, AVERAGES))
    return memory.peak(config.train_batch_size) - trained // 2


@dataclass(frozen=True)
class Knob:
    """Something to turn: what to pass, for a run that has not turned it already; the peak that then
    is to be expected, None where nobody knows.
    """

    flag: Callable[[TrainConfig], str]
    is_free: Callable[[TrainConfig], bool]
    peak: Callable[[TrainConfig, Memory], int | None]


KNOBS = (
    Knob(
        lambda _: "--gradient_checkpointing selective",
        lambda config: config.gradient_checkpointing == "no",
        lambda _, memory: memory.recomputing.get("selective"),
    ),
    Knob(
        lambda _: "--gradient_checkpointing full",
        lambda config: config.gradient_checkpointing != "full",
        lambda _, memory: memory.recomputing.get("full"),
    ),
    Knob(
        lambda _: f"--mixed_precision {HALF}",
        lambda config: config.mixed_precision == "no",
        of_half_precision,
    ),
    Knob(
        lambda _: "--cache_latents", lambda config: not config.cache_latents, of_encoding_beforehand
    ),
    Knob(lambda _: "--use_8bit_adam", lambda config: not config.use_8bit_adam, of_8bit_moments),
    Knob(
        lambda config: f"--lora_rank {config.lora_rank // 2}",
        lambda config: config.lora_rank > 1 and not config.full_finetune,
        of_half_rank,
    ),
)
"""In the order in which to try them, after the batch size. A further one is one entry."""


def smaller_batch(config: TrainConfig, memory: Memory) -> str | None:
    """The same run in smaller parts, the largest that fit; None where none does."""
    samples = config.train_batch_size * config.gradient_accumulation_steps
    limit = min(
        config.train_batch_size - 1,
        memory.largest(),
        max(memory.steps) if memory.ran_out else samples,
    )
    fitting = [size for size in range(1, limit + 1) if samples % size == 0]
    if not fitting:
        return None
    size = fitting[-1]
    same = f"--train_batch_size {size} --gradient_accumulation_steps {samples // size}"
    return f"{same} (the same run, peak {readable(memory.peak(size))})"


def advice(config: TrainConfig, memory: Memory | None) -> str:
    """What to pass, with the peak that comes of it where that is known. Without `memory` a smaller
    batch is no way.
    """
    smaller = None if memory is None else smaller_batch(config, memory)
    enough, helpful = [smaller] if smaller else [], list[str]()
    for knob in KNOBS:
        peak = None if memory is None else knob.peak(config, memory)
        if not knob.is_free(config):
            continue
        if memory is None or peak is None:
            enough.append(knob.flag(config))
        elif peak < memory.peak(config.train_batch_size):
            (enough if peak <= memory.total else helpful).append(
                f"{knob.flag(config)} (peak about {readable(peak)})"
            )
    also = "together, of which none is enough alone, " if len(helpful) > 1 else ""
    if enough or not helpful:
        return "pass " + ", or ".join(enough) if enough else "use a machine with more memory"
    return f"pass {also}{' '.join(helpful)}, or use a machine with more memory"


def out_of_memory(config: TrainConfig) -> ValueError:
    """Of a run that was not rehearsed, or had no room to be built."""
    smaller = (
        "pass a smaller --train_batch_size with as many more --gradient_accumulation_steps "
        "(the same run); or "
    )
    tried = "" if config.dry_run else "; --dry_run tells how much each brings"
    return ValueError(
        "memory ran out: "
        f"{smaller if config.train_batch_size > 1 else ''}{advice(config, None)}{tried}"
    )
