"""How well pictures fit their prompts, to networks that look at both."""

from __future__ import annotations

import torch

from lcm.evaluation.features import BATCH
from lcm.evaluation.metric import Statistic, of_rows
from lcm.evaluation.scene import Scene


def cosine(name: str, scaled: bool, scene: Scene) -> Statistic:
    """The mean cosine between a prompt and its pictures; `scaled` by the network's own factor."""
    pictures = scene.features.of_drawings(name, scene.drawn)  # [N, S, D]
    net, texts = scene.features.net(name), []
    with torch.inference_mode():
        for start in range(0, len(scene.drawn), BATCH):
            texts.append(net.texts(scene.drawn.prompts[start : start + BATCH]).float().cpu())
    words = torch.cat(texts)
    values = (pictures * words[:, None]).sum(dim=2).mean(dim=1).double()
    factor = net.scale if scaled else 1.0
    return of_rows((factor * values).numpy(), scene.drawn.pictures)
