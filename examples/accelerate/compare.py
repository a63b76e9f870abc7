"""Whether two runs are the same but for rounding: `python -m examples.accelerate.compare out/one
out/other`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from lcm.outputs.checkpoint import list_checkpoints, load_checkpoint
from lcm.outputs.metrics import read_updates


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in read_updates(output)]


def of_last_checkpoint(output: Path, kind: str) -> Tensor:
    """All tensors of its name in one."""
    tensors = load_checkpoint(list_checkpoints(output)[-1]).tensors
    return torch.cat([tensors[name].flatten().double() for name in sorted(tensors) if kind in name])


def main() -> int:
    """The exit status: 0 when losses, gradients and weights agree, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    args = parser.parse_args()
    first, second = losses(args.one), losses(args.other)
    print("losses", *(f"{a:.6f} {b:.6f};" for a, b in zip(first, second, strict=True)))
    off = max(abs(a - b) / abs(b) for a, b in zip(first, second, strict=True))
    # of AdamW's state the first moments are linear in the gradients; a weight whose gradients
    # cancel may move either way
    angles = {
        what: cosine_similarity(
            of_last_checkpoint(args.one, kind), of_last_checkpoint(args.other, kind), dim=0
        ).item()
        for what, kind in (("gradients", ".exp_avg"), ("weights", "trained."))
    }
    same = off < 1e-3 and min(angles.values()) > 0.999
    print(
        f"largest relative difference of a loss {off:.1e}; cosine of "
        f"{', '.join(f'{k} {v:.9f}' for k, v in angles.items())}"
    )
    print("the same run" if same else "NOT the same run")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
