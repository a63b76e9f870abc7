"""The adapter's layers in training compute what PEFT's do, and train float32 values beside
low-precision weights.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

from lcm.adapter.layers import LoraConv2d, LoraLinear
from lcm.adapter.lora import add_lora, lora_modules, lora_parameters
from lcm.adapter.names import LORA_TARGETS
from tests.support.worlds import build_sdxl_unet, build_unet, randomize_lora

every_unet = pytest.mark.parametrize("build", [build_unet, build_sdxl_unet])


def inputs(unet: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(unet.dtype)

    kwargs: dict[str, Any] = {"sample": noise(2, 4, 8, 8), "timestep": torch.tensor([999, 19])}
    kwargs["encoder_hidden_states"] = noise(2, 77, unet.config.cross_attention_dim)
    if unet.config.addition_embed_type is not None:
        kwargs["added_cond_kwargs"] = {
            "text_embeds": noise(2, 16),
            "time_ids": torch.full((2, 6), 16.0).to(unet.dtype),
        }
    return kwargs


def by_peft(unet: Any, rank: int, alpha: float) -> Any:
    """The same U-Net with PEFT's own layers."""
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LORA_TARGETS)))
    return unet


def by_us(unet: Any, rank: int, alpha: float) -> Any:
    add_lora(unet, rank, alpha)
    return unet


def output_and_gradients(unet: Any) -> tuple[Tensor, list[Tensor]]:
    randomize_lora(unet)
    output: Tensor = unet(**inputs(unet)).sample.float()
    output.square().mean().backward()
    return output.detach(), [p.grad for p in lora_parameters(unet) if p.grad is not None]


@every_unet
@pytest.mark.parametrize("alpha", [4.0, 3.0])
def test_outputs_and_gradients_are_those_of_peft(build: Any, alpha: float) -> None:
    expected, gradients = output_and_gradients(by_peft(build(), 4, alpha))
    unet = by_us(build(), 4, alpha)
    assert {type(layer) for layer in lora_modules(unet).values()} == {LoraLinear, LoraConv2d}
    found, ours = output_and_gradients(unet)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(ours) == len(gradients) > 0
    for mine, theirs in zip(ours, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@every_unet
@pytest.mark.parametrize("checkpointing", [False, True])
def test_low_precision_rounds_and_trains_in_float32(build: Any, checkpointing: bool) -> None:
    expected, gradients = output_and_gradients(by_us(build(), 4, 4.0))
    unet = by_us(build().to(torch.bfloat16), 4, 4.0)
    unet.train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    found, ours = output_and_gradients(unet)
    # bfloat16 has 8 bits, and the roundings of some 50 layers
    assert float((found - expected).norm() / expected.norm()) < 0.05
    assert {g.dtype for g in ours} == {p.dtype for p in lora_parameters(unet)} == {torch.float32}
    off = torch.cat([(a - b).flatten() for a, b in zip(ours, gradients, strict=True)]).norm()
    assert float(off / torch.cat([g.flatten() for g in gradients]).norm()) < 0.1


def test_every_pass_reads_the_values_of_its_time() -> None:
    unet = by_us(build_unet().to(torch.bfloat16), 4, 4.0)
    randomize_lora(unet)
    with torch.no_grad():
        before = unet(**inputs(unet)).sample
        for parameter in lora_parameters(unet):
            parameter.zero_()
        after = unet(**inputs(unet)).sample
        unet.disable_adapters()
        base = unet(**inputs(unet)).sample
    assert torch.equal(after, base)
    assert not torch.equal(before, base)


def test_layers_of_any_shape_are_those_of_peft() -> None:
    """A kernel with stride and padding, one without padding, a matrix as input and a batch of
    sequences.
    """

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, 2, 1)
            self.bare = nn.Conv2d(6, 5, 2, bias=False)
            self.linear = nn.Linear(5, 7)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            rows = self.bare(self.conv(x)).flatten(2).transpose(1, 2)
            return self.linear(rows), self.linear(rows[:, 0])

    from peft import inject_adapter_in_model

    from lcm.adapter.layers import LAYERS

    results = []
    for custom in (False, True):
        torch.manual_seed(0)
        config = LoraConfig(r=2, lora_alpha=6, target_modules=["conv", "bare", "linear"])
        if custom:
            config._register_custom_module(LAYERS)
        net = inject_adapter_in_model(config, Net())
        randomize_lora(net)
        results.append(net(torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
