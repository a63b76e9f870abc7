"""The reward of the rows that have one, with the bundled judge in the place of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.methods import second_judge
from examples.shapes.judge import Judge
from examples.shapes.render import WORLD


def test_more_is_given_to_the_caption_that_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge.load()
    monkeypatch.setattr(second_judge, "second_judge", lambda: judge)
    scenes = WORLD.sample_dataset(192, 3)[:8]
    captions = [scene.caption for scene in scenes]
    pictures = torch.from_numpy(np.stack([WORLD.render(scene) for scene in scenes]))
    pictures = (pictures.permute(0, 3, 1, 2).float() / 255).requires_grad_()
    values = second_judge.agreement(pictures, captions)
    others = second_judge.agreement(pictures, captions[::-1])
    assert values.shape == (8,) and bool((values <= 0).all())
    assert bool((values > others).all())
    values.sum().backward()
    assert pictures.grad is not None and bool((pictures.grad.flatten(1).abs().sum(1) > 0).all())
