"""The frozen teacher's features: those of its own blocks, with a way back to x_t alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lcm.adapter.lora import lora_parameters
from lcm.models.conditioning import Conditioning
from lcm.models.gradient_checkpointing import checkpoint_activations
from lcm.models.networks import Networks, channels_of, make_networks
from tests.support.terms import vary_second, with_second
from tests.support.worlds import build_sdxl_unet, build_unet, inputs, vary

every_build = pytest.mark.parametrize("build", [build_unet, build_sdxl_unet])
every_depth = pytest.mark.parametrize("depth", [1, 2, None])
every_mode = pytest.mark.parametrize("mode", ["no", "full", "selective"])


def seen_by_hooks(unet: Any, x: Tensor, t: Tensor, said: Conditioning) -> list[Tensor]:
    """What the blocks on the way down and the middle one give in a whole pass."""
    seen: list[Tensor] = []

    def note(module: Any, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    blocks = [*unet.down_blocks, unet.mid_block]
    hooks = [block.register_forward_hook(note) for block in blocks]
    unet(x, t, **said.unet_kwargs())
    for hook in hooks:
        hook.remove()
    return seen


@every_build
@every_depth
def test_they_are_those_of_an_untouched_teacher(build: Any, depth: int | None) -> None:
    base, unet = build(), build()
    nets = with_second(unet)
    x, t, said = inputs(unet)
    with torch.no_grad():
        expected = seen_by_hooks(base, x, t, said)[:depth]
    for asked in (x, x.clone().requires_grad_()):
        found = nets.features(asked, t, said, depth)
        assert [part.shape[1] for part in found] == channels_of(unet)[:depth]
        for mine, theirs in zip(found, expected, strict=True):
            assert torch.equal(mine, theirs)
            assert mine.requires_grad == asked.requires_grad


def test_of_a_whole_unet_they_are_the_teachers() -> None:
    teacher, unet = build_unet(), build_unet()
    vary(unet, 1)
    x, t, said = inputs(unet)
    nets = make_networks(unet, ema_decay=None, teacher_unet=teacher.requires_grad_(False))
    with torch.no_grad():
        expected = seen_by_hooks(teacher, x, t, said)
    for mine, theirs in zip(nets.features(x, t, said, None), expected, strict=True):
        assert torch.equal(mine, theirs)


@every_mode
@pytest.mark.parametrize("depth", [1, None])
def test_their_way_back_ends_at_x_t(mode: str, depth: int | None) -> None:
    """The gradient is that of the untouched teacher, whatever is computed anew."""
    base, unet = build_unet().requires_grad_(False), build_unet()
    nets = with_second(unet)
    checkpoint_activations(unet.train(), mode)
    x, t, said = inputs(unet)
    slopes = []
    for ask in (
        lambda x: nets.features(x, t, said, depth),
        lambda x: seen_by_hooks(base, x, t, said)[:depth],
    ):
        inner = x.clone().requires_grad_()
        torch.stack([part.square().mean() for part in ask(inner)]).sum().backward()
        slopes.append(inner.grad)
    assert slopes[1] is not None and slopes[1].abs().max() > 0
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-5, atol=1e-8)
    assert all(p.grad is None for p in unet.parameters())


@pytest.mark.parametrize("fails", [False, True])
def test_they_leave_the_network_as_it_was(fails: bool) -> None:
    """And go no further than they must: what comes after the last block is not computed."""
    unet = build_unet()
    nets = with_second(unet)
    x, t, said = inputs(unet)
    before = nets.student(x, t, said)
    hooks = {name: len(module._forward_hooks) for name, module in unet.named_modules()}
    asked: list[Any] = []
    listening = unet.mid_block.register_forward_pre_hook(lambda *_: asked.append(1))
    if fails:
        with pytest.raises(RuntimeError):
            nets.features(x[:, :3], t, said, 1)
    else:
        nets.features(x, t, said, 2)
        assert not asked
        nets.features(x.requires_grad_(), t, said, None)
        assert asked
    listening.remove()
    assert {name: len(m._forward_hooks) for name, m in unet.named_modules()} == hooks
    assert torch.equal(nets.student(x, t, said), before)
    assert all(p.requires_grad for p in lora_parameters(unet))


def in_between(nets: Networks, kind: str, x: Tensor, t: Tensor, said: Conditioning) -> None:
    """A pass of another role."""
    if kind == "features":
        point = x.clone().requires_grad_()
        torch.autograd.grad(nets.features(point, t, said, 1)[0].float().sum(), point)
    elif kind == "teacher":
        nets.teacher(x, t, said)
    else:
        with torch.no_grad():
            nets.second(x, t, said)


@every_mode
def test_a_pass_between_does_not_change_the_students_gradient(mode: str) -> None:
    """With weights in low precision the adapter is read as copies, again on the way back."""
    unet = build_unet().to(torch.bfloat16)
    nets = with_second(unet)
    vary_second(nets)
    checkpoint_activations(unet.train(), mode)
    x, t, said = inputs(unet)

    def gradients(kind: str | None) -> list[Tensor]:
        loss = nets.student(x, t, said).square().mean()
        if kind is not None:
            in_between(nets, kind, x, t, said)
        return list(torch.autograd.grad(loss, lora_parameters(unet)))

    plain = gradients(None)
    assert all(part.abs().max() > 0 for part in plain)
    for kind in ("features", "teacher", "second"):
        assert all(map(torch.equal, gradients(kind), plain)), kind
