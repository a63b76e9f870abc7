"""How well pictures fit their prompts, and what people would choose."""

from __future__ import annotations

from functools import partial

import torch

from lcm.evaluation.features import BATCH
from lcm.evaluation.metric import Metric, Statistic, of_rows
from lcm.evaluation.nets.clip import CLIP_WEIGHTS, PICK_WEIGHTS, WORDS
from lcm.evaluation.nets.hpsv2 import WEIGHTS as HPS_WEIGHTS
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


CLIP_SCORE = Metric(
    "CLIP score",
    "text",
    "higher",
    partial(cosine, "clip", False),
    about="cosine of CLIP ViT-L/14 between prompt and picture",
    needs=(CLIP_WEIGHTS, WORDS),
    of_teacher=True,
    form=".4f",
)
PICK_SCORE = Metric(
    "PickScore",
    "text",
    "higher",
    partial(cosine, "pick_score", True),
    about="what people chose on Pick-a-Pic",
    needs=(PICK_WEIGHTS, WORDS),
    of_teacher=True,
    form=".2f",
)
HPSV2 = Metric(
    "HPS v2.1",
    "text",
    "higher",
    partial(cosine, "hpsv2", False),
    about="what people chose on HPD v2",
    needs=(HPS_WEIGHTS, WORDS),
    of_teacher=True,
    form=".4f",
)
