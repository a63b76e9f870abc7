"""Whether a run fits into memory, as measured at some batch sizes, and which knob to turn where it
does not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lcm.config.run import TrainConfig
from lcm.config.sections import LoopConfig
from lcm.system.device import found, half_precision, has_own_memory
from lcm.system.disk_space import readable
from lcm.training.step import ENCODED, UPDATED

TIGHT = 0.92
"""Share of the memory from which on it is called tight: fragments and libraries take the rest."""
UNET = "U-Net"
ENCODERS = "VAE and text encoders"
TRAINED = "trained"
MOMENTS = "moments"
AVERAGES = "averages"
CRITICS = "critics"
"""What is held between steps."""


@dataclass(frozen=True)
class Memory:
    """What a run takes of the memory of one process, in bytes, and how much there is in `total`.

    `held` is between steps, by what; the most on top of that: `steps` of the parts of a step by
    batch size, `besides` of saving and drawing. `wanted` is the batch size of the run;
    `recomputing` the peak at it by value of --gradient_checkpointing, where that was measured.
    `ran_out`: the largest size that was tried is the largest that fits, whatever the figures say.
    """

    total: int
    wanted: int
    held: Mapping[str, int]
    steps: Mapping[int, Mapping[str, int]]
    besides: Mapping[str, int]
    recomputing: Mapping[str, int] = field(default_factory=dict)
    ran_out: bool = False

    @property
    def between(self) -> int:
        """Bytes held between steps."""
        return sum(self.held.values())

    def part(self, name: str, batch_size: int) -> float:
        """Bytes of one part of a step, linear in the batch size: through the smallest and the
        largest that were measured.
        """
        small, large = min(self.steps), max(self.steps)
        low, high = self.steps[small][name], self.steps[large][name]
        if small == large:
            return low * batch_size / small
        return low + (high - low) / (large - small) * (batch_size - small)

    def above(self, batch_size: int) -> int:
        """Peak bytes of one step at this batch size, above what is held; measured or predicted."""
        return round(max(self.part(name, batch_size) for name in (ENCODED, UPDATED)))

    def peak(self, batch_size: int | None = None) -> int:
        """Peak bytes of a run with this batch size, that of the run where none is named."""
        step = self.above(self.wanted if batch_size is None else batch_size)
        return self.between + max([step, *self.besides.values()])

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
        wanted=memories[0].wanted,
        held=most([memory.held for memory in memories]),
        steps={
            size: most([memory.steps[size] for memory in memories]) for size in memories[0].steps
        },
        besides=most([memory.besides for memory in memories]),
    )


# --- the knobs ------------------------------------------------------------------------------------


def of_half_precision(memory: Memory) -> int:
    """The peak with frozen weights and activations of half the size."""
    frozen = memory.held.get(UNET, 0) + memory.held.get(ENCODERS, 0)
    return memory.between - frozen // 2 + (memory.peak() - memory.between) // 2


def of_encoding_beforehand(memory: Memory, offloads: bool) -> int:
    """The peak without encoding in the step; the encoders then are on a GPU for drawing alone."""
    update = memory.between + round(memory.part(UPDATED, memory.wanted))
    freed = memory.held.get(ENCODERS, 0) if has_own_memory(found()) and offloads else 0
    return max(update - freed, memory.between + max([0, *memory.besides.values()]))


def of_8bit_moments(memory: Memory) -> int:
    """The peak with AdamW's moments in a quarter of their bytes."""
    return memory.peak() - memory.held.get(MOMENTS, 0) * 3 // 4


def of_half_rank(memory: Memory) -> int:
    """The peak with half as much to train."""
    names = (TRAINED, MOMENTS, AVERAGES, CRITICS)
    trained = sum(memory.held.get(name, 0) for name in names)
    return memory.peak() - trained // 2


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
        lambda config: config.loop.gradient_checkpointing == "no",
        lambda _, memory: memory.recomputing.get("selective"),
    ),
    Knob(
        lambda _: "--gradient_checkpointing full",
        lambda config: config.loop.gradient_checkpointing != "full",
        lambda _, memory: memory.recomputing.get("full"),
    ),
    Knob(
        lambda _: f"--mixed_precision {half_precision(found())}",
        lambda config: config.loop.mixed_precision == "no",
        lambda _, memory: of_half_precision(memory),
    ),
    Knob(
        lambda _: "--cache_latents",
        lambda config: not config.cache.cache_latents,
        lambda config, memory: of_encoding_beforehand(memory, config.method.loss_type != "lpips"),
    ),
    Knob(
        lambda _: "--use_8bit_adam",
        lambda config: not config.optimizer.use_8bit_adam,
        lambda _, memory: of_8bit_moments(memory),
    ),
    Knob(
        lambda config: f"--lora_rank {config.adapter.lora_rank // 2}",
        lambda config: config.adapter.lora_rank > 1 and not config.adapter.full_finetune,
        lambda _, memory: of_half_rank(memory),
    ),
)
"""What to turn, in the order in which to try it, after the batch size. A further one is one
entry.
"""


def smaller_batch(loop: LoopConfig, memory: Memory) -> str | None:
    """The same run in smaller parts, the largest that fit; None where none does."""
    samples = loop.train_batch_size * loop.gradient_accumulation_steps
    tried = max(memory.steps) if memory.ran_out else samples
    limit = min(loop.train_batch_size - 1, memory.largest(), tried)
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
    smaller = None if memory is None else smaller_batch(config.loop, memory)
    enough, helpful = [smaller] if smaller else [], list[str]()
    for knob in KNOBS:
        peak = None if memory is None else knob.peak(config, memory)
        if not knob.is_free(config):
            continue
        if memory is None or peak is None:
            enough.append(knob.flag(config))
        elif peak < memory.peak():
            (enough if peak <= memory.total else helpful).append(
                f"{knob.flag(config)} (peak about {readable(peak)})"
            )
    also = "together, of which none is enough alone, " if len(helpful) > 1 else ""
    if enough or not helpful:
        return "pass " + ", or ".join(enough) if enough else "use a machine with more memory"
    return f"pass {also}{' '.join(helpful)}, or use a machine with more memory"


def out_of_memory(config: TrainConfig) -> ValueError:
    """The error of a run that was not rehearsed, or had no room to be built."""
    smaller = (
        "pass a smaller --train_batch_size with as many more --gradient_accumulation_steps "
        "(the same run); or "
    )
    tried = "" if config.loop.dry_run else "; --dry_run tells how much each brings"
    return ValueError(
        "memory ran out: "
        f"{smaller if config.loop.train_batch_size > 1 else ''}{advice(config, None)}{tried}"
    )
