"""How well a picture fits its prompt."""

from __future__ import annotations

from functools import partial

from lcm.evaluation.cosine import cosine
from lcm.evaluation.metric import Metric
from lcm.evaluation.nets.clip import CLIP_WEIGHTS, WORDS

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
