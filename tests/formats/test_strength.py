"""Rank, alpha and scale: what a file leaves out is said, and nothing is rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lcm.formats.factors import Adapter, Factors, uniform
from lcm.formats.read import read_adapter
from tests.support.adapters import adapted, stock_kohya, stock_without_metadata
from tests.support.layouts import equal_deltas, peft_folder, truth
from tests.support.worlds import build_unet


def test_what_is_assumed_is_said(trained: Any, tmp_path: Path) -> None:
    stock_without_metadata(trained, tmp_path)
    assert "no layer states alpha" in read_adapter(tmp_path).notes[0]
    halved = read_adapter(tmp_path, alpha=2.0)
    assert halved.notes == []
    equal_deltas(halved, {name: delta / 2 for name, delta in truth(trained).items()})
    stock_kohya(trained, tmp_path)
    with pytest.raises(ValueError, match="states alpha for all its 79 layers"):
        read_adapter(tmp_path, alpha=2.0)


def test_rank_stabilised_scale(tmp_path: Path) -> None:
    unet = adapted(build_unet(), 6, use_rslora=True)
    peft_folder(unet, tmp_path)
    equal_deltas(read_adapter(tmp_path), truth(unet))


def test_one_alpha_needs_no_padding_and_padding_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)

    def factors(rank: int, alpha: float) -> Factors:
        return Factors(
            torch.randn(rank, 6, generator=generator).half(),
            torch.randn(5, rank, generator=generator).half(),
            alpha,
        )

    attention = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    conv = "unet.mid_block.resnets.0.time_emb_proj"
    same = Adapter({attention: factors(3, 4.0), conv: factors(8, 4.0)})
    assert uniform(same).modules == same.modules
    mixed = Adapter({attention: factors(3, 3.0), conv: factors(8, 8.0)})
    padded = uniform(mixed)
    assert {(f.rank, f.alpha) for f in padded.modules.values()} == {(8, 8.0)}
    for name, before in mixed.modules.items():
        assert torch.equal(padded.modules[name].delta(), before.delta())
