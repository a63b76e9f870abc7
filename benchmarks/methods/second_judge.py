"""A reward for the rows that have one: what a judge of the tiny world thinks of a picture, but not
the judge that counts. It is trained on other renders from another seed, when it is first asked for.

    --terms reward=0.1 --reward benchmarks.methods.second_judge:agreement
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from examples.shapes.judge import CAPTION_TO_LABELS, Judge

FOLDER = Path("out/second_judge")
SEED = 10


@cache
def second_judge() -> Judge:
    """The judge of out/second_judge, made if it is not there."""
    weights = FOLDER / "judge.safetensors"
    if not weights.exists():
        words = ["examples.shapes.judge", "--output_dir", str(FOLDER), "--seed", str(SEED)]
        subprocess.run([sys.executable, "-m", *words], check=True)
    return Judge.load(weights).requires_grad_(False)


def agreement(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    """Pictures [n, 3, 64, 64] float32 in 0 to 1 -> [n], the logarithm of the chance that the judge
    gives to what their captions say, 0 at most. Another prompt says as much as the first caption: a
    reward is tried on one before a run begins.
    """
    first, known = next(iter(CAPTION_TO_LABELS.values())), CAPTION_TO_LABELS
    labels = torch.tensor([known.get(prompt, first) for prompt in prompts])
    logits = second_judge().to(pictures.device)(2.0 * pictures - 1.0)
    losses = [
        F.cross_entropy(of, labels[:, i].to(of.device), reduction="none")
        for i, of in enumerate(logits.values())
    ]
    return -torch.stack(losses).sum(dim=0)
