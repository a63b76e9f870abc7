"""What people would choose, by PickScore."""

from __future__ import annotations

from functools import partial

from lcm.evaluation.cosine import cosine
from lcm.evaluation.metric import Metric
from lcm.evaluation.nets.clip import PICK_WEIGHTS, WORDS

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
