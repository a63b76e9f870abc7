"""Parts that PEFT and torch have in newer releases only do here what they do there."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from lcm.libraries.peft import activate
from lcm.libraries.torch import selective_contexts


def test_adapters_are_switched_and_none_is_to_be_trained() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False)).requires_grad_(False)
    for name in ("one", "two"):
        inject_adapter_in_model(
            LoraConfig(r=2, target_modules=["0"], init_lora_weights=False), model, name
        )
    layer, x = model[0], torch.randn(3, 4)
    for names in (["two"], ["one", "two"], []):
        activate(layer, names)
        assert list(layer.active_adapters) == names
        assert not any(p.requires_grad for p in model.parameters())
        by_hand = layer.get_base_layer()(x) + sum(
            layer.scaling[n] * layer.lora_B[n](layer.lora_A[n](x)) for n in names
        )
        assert torch.allclose(model(x), by_hand, atol=1e-6)


def test_what_is_kept_is_computed_once_and_the_rest_twice() -> None:
    counts: dict[str, int] = {}

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            counts["forward"] = counts.get("forward", 0) + 1
            return x * 2

        @staticmethod
        def backward(ctx: object, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * 2

    asked: list[str] = []

    def is_kept(operation: object, result: object, *_: object, **__: object) -> bool:
        asked.append(str(operation))
        return str(operation) == "aten.mm.default"

    weight = torch.randn(4, 4, requires_grad=True)

    def block(x: torch.Tensor) -> torch.Tensor:
        return Counted.apply(x @ weight).sin()  # type: ignore[no-untyped-call, no-any-return]

    x = torch.randn(3, 4, requires_grad=True)
    plain = torch.autograd.grad(block(x).sum(), (x, weight))
    counts.clear()
    result = checkpoint(
        block, x, use_reentrant=False, context_fn=lambda: selective_contexts(is_kept)
    ).sum()
    kept = torch.autograd.grad(result, (x, weight), retain_graph=True)
    assert all(torch.equal(*pair) for pair in zip(plain, kept, strict=True))
    assert counts["forward"] == 2 and asked.count("aten.mm.default") == 1
    with pytest.raises(RuntimeError, match="made twice"):
        torch.autograd.grad(result, (x, weight))
