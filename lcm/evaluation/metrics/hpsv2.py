"""What people would choose, by HPS v2.1."""

from __future__ import annotations

from functools import partial

from lcm.evaluation.cosine import cosine
from lcm.evaluation.metric import Metric
from lcm.evaluation.nets.clip import WORDS
from lcm.evaluation.nets.hpsv2 import WEIGHTS as HPS_WEIGHTS

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
