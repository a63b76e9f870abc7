"""The second network: other values in the same places, and nothing of it is left there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lcm.adapter.lora import lora_parameters
from tests.support.terms import vary_second, with_second
from tests.support.worlds import build_sdxl_unet, build_unet, inputs


@pytest.mark.parametrize("build", [build_unet, build_sdxl_unet])
def test_it_is_the_network_with_its_own_values(build: Any) -> None:
    unet, other = build(), build()
    nets = with_second(unet)
    with_second(other)
    x, t, said = inputs(unet)
    with torch.no_grad():
        assert torch.equal(nets.second(x, t, said), nets.teacher(x, t, said))  # as it begins
        values = vary_second(nets).parameters
        for parameter, value in zip(lora_parameters(other), values, strict=True):
            parameter.copy_(value)
        expected = other(x, t, **said.unet_kwargs()).sample
        torch.testing.assert_close(nets.second(x, t, said), expected)
        assert not torch.allclose(nets.student(x, t, said), expected)


@pytest.mark.parametrize("fails", [False, True])
def test_what_it_learns_is_its_own(fails: bool) -> None:
    """Gradients of two batches add up on its own tensors. The student's values are the same
    memory with the same bits, and its gradients, those that wait and those there are none of, stay;
    after an error, too.
    """
    unet = build_unet()
    nets = with_second(unet)
    second, live = vary_second(nets), lora_parameters(unet)
    x, t, said = inputs(unet)
    live[0].grad = waiting = torch.ones_like(live[0])
    places, values = [p.data_ptr() for p in live], [p.detach().clone() for p in live]

    def learn(scale: float) -> None:
        with second.learning():
            (scale * nets.second(x, t, said).square().mean()).backward()
            if fails:
                raise ZeroDivisionError

    for scale in (1.0, 2.0):
        if fails:
            with pytest.raises(ZeroDivisionError):
                learn(scale)
        else:
            learn(scale)
    assert [p.data_ptr() for p in live] == places and all(map(torch.equal, live, values))
    assert live[0].grad is waiting and torch.equal(waiting, torch.ones_like(waiting))
    assert all(p.grad is None for p in live[1:])
    assert all(p.grad is None for name, p in unet.named_parameters() if ".lora_" not in name)

    other = build_unet()
    with_second(other)
    with torch.no_grad():
        for parameter, value in zip(lora_parameters(other), second.parameters, strict=True):
            parameter.copy_(value)
    (3.0 * other(x, t, **said.unet_kwargs()).sample.square().mean()).backward()
    for mine, theirs in zip(second.parameters, lora_parameters(other), strict=True):
        assert mine.grad is not None and theirs.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_its_steps_move_it_alone_and_it_is_no_part_of_the_network() -> None:
    unet = build_unet()
    nets = with_second(unet)
    second = vary_second(nets)
    x, t, said = inputs(unet)
    names = set(unet.state_dict())
    with torch.no_grad():
        student, before = nets.student(x, t, said), nets.second(x, t, said)
    optimizer = torch.optim.Adam(second.parameters, 1e-2)
    with second.learning():
        nets.second(x, t, said).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        assert nets.second(x, t, said).square().mean() < before.square().mean()
        assert torch.equal(nets.student(x, t, said), student)
    theirs = {p.data_ptr() for p in second.parameters}
    assert set(unet.state_dict()) == names
    assert not theirs & {value.data_ptr() for value in unet.state_dict().values()}
