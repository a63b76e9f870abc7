"""The parts of the rehearsal's account, each by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lcm.config.command_line import parse_config
from lcm.dry_run.memory_fit import TRAINED, UNET, advice, worst
from lcm.dry_run.preparation import Gain
from lcm.system.memory import counting, held_on, total_memory
from lcm.training.step import ENCODED, UPDATED
from tests.support.rehearsals import memory_with
from tests.support.runs import flags


def test_each_part_of_a_step_is_a_line_and_the_peak_the_higher_one() -> None:
    memory = memory_with()
    assert [memory.above(size) for size in (1, 4, 5, 6, 11, 21)] == [100, 100, 100, 120, 220, 420]
    assert memory.peak(1) == 170 and memory.peak(21) == 490
    assert memory.largest() == 42  # 70 + 20 * 42 = 910 of 920
    assert memory_with(besides={"drawing": 2000}).largest() == 0
    assert memory_with(steps={2: {ENCODED: 10, UPDATED: 40}}).above(6) == 120


def test_of_several_processes_the_one_counts_that_takes_most() -> None:
    other = memory_with(total=800, held={TRAINED: 30, "other": 5}, besides={})
    found = worst([memory_with(), other])
    assert (found.total, found.held) == (800, {UNET: 50, TRAINED: 30, "other": 5})


def test_on_a_gpu_its_allocator_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is played here: 100 bytes held, of which a tensor is 40."""
    state = {"now": 100, "peak": 500}
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: state["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: state["peak"])
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device: state.update(peak=state["now"])
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3000, 8000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    gpu = torch.device("cuda")
    with counting(gpu) as most:
        state.update(now=150, peak=400)
        assert most() == 300
        state.update(now=100)
        assert most() == 50  # what was alive when it was last asked
    assert held_on(gpu, {"weights": [torch.zeros(10)]}) == {"weights": 40, "other": 60}
    assert total_memory(gpu) == 3700


def test_knobs_that_are_turned_or_bring_nothing_are_not_named(tmp_path: Path) -> None:
    config = parse_config(
        flags(
            tmp_path, tmp_path, tmp_path, train_batch_size=11, mixed_precision="bf16", lora_rank=1
        )
    )
    assert advice(config, memory_with()) == (
        "pass --train_batch_size 1 --gradient_accumulation_steps 11 (the same run, peak 170 "
        "bytes), or --gradient_checkpointing selective, or --gradient_checkpointing full"
    )
    encoding = {1: {ENCODED: 300, UPDATED: 20}, 11: {ENCODED: 900, UPDATED: 220}}
    assert advice(
        config, memory_with(steps=encoding, recomputing={"selective": 2000, "full": 960})
    ).endswith(
        "or --gradient_checkpointing full (peak about 960 bytes), or --cache_latents (peak about "
        "290 bytes)"
    )


def test_a_cache_pays_from_the_epoch_on_in_which_it_has_saved_its_making() -> None:
    gain = Gain(live=0.1, making=0.25, reading=0.0)
    assert gain.seconds(samples=30, records=10) == pytest.approx(0.5)
    assert gain.advice(0.3, samples=30, records=10) == (
        "encoding is 30 % of an update; --cache_latents would pay from epoch 3 on, and save 0.5 "
        "s of this run"
    )
    assert gain.advice(0.3, samples=15, records=10).endswith(
        "would pay from epoch 3 on, and this run has 1.5"
    )
    assert "would not pay" in Gain(live=0.1, making=0.25, reading=0.2).advice(0.3, 15, 10)
