"""How far the tangent of `scm` is from the true one by --tangent_mode and --tangent_step: the
gradient of a rank 8 adapter of random values on the tiny teachers, against that of forward mode.

    python -m benchmarks.tangents

The relative error of the gradient over 8 pictures of one time, guidance 5; their median over the
times, and the least cosine. Minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.methods.teacher import write_json
from examples.shapes.evaluate import generate, load_pipe, prompts_and_seeds
from lcm.adapter.lora import add_lora
from lcm.data.crops import uncropped
from lcm.diffusion.times import Times
from lcm.methods.build import build_objective
from lcm.methods.config import MethodConfig, resolved
from lcm.methods.context import LatentBatch
from lcm.models.families import Family, load_family
from lcm.models.networks import Networks, make_networks

NAME = "tangents.json"
RESULTS = Path(__file__).parent / "results" / NAME
TEACHERS = {"epsilon": "examples/shapes/teacher", "v_prediction": "examples/shapes/teacher_v"}
TIMES = (150, 400, 650, 900)
STEPS = (1, 2, 5, 20)
PICTURES = 8
STRENGTH = 0.02
"""Standard deviation of the values of B; those of A are PEFT's."""


def latents_of(teacher: str) -> Tensor:
    """The teacher's own pictures [PICTURES, 4, 8, 8]."""
    return generate(load_pipe(Path(teacher)), *prompts_and_seeds(PICTURES), 20, 5.0)


def batch_of(family: Family, x0: Tensor) -> LatentBatch:
    """Those pictures with noise."""
    cond = family.encode_prompts(prompts_and_seeds(PICTURES)[0], [uncropped(64)] * PICTURES)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(PICTURES)
    return LatentBatch(x0, noise, nothing, nothing, nothing, cond, family.unconditional(cond))


def randomise(unet: Any) -> None:
    """Gives the adapter's B, which are zero, random values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".lora_B" in name:
                parameter.copy_(STRENGTH * torch.randn(parameter.shape, generator=generator))


@dataclasses.dataclass(frozen=True)
class Given:
    """The same times, whatever is drawn."""

    times: Times
    direct: bool = False

    def __call__(self, uniform: Tensor, uniform_landing: Tensor, progress: float) -> Times:
        return self.times


def gradient(
    family: Family, nets: Networks, batch: LatentBatch, t: int, mode: str, step: int | None
) -> Tensor:
    """The loss's gradient in all adapter tensors, flat, at one time, with the derivative's term
    whole.
    """
    flags: dict[str, Any] = {} if step is None else {"tangent_step": step}
    config = MethodConfig(objective="scm", tangent_mode=mode, guidance_scale=5.0, **flags)
    objective = build_objective(resolved(config), family.schedule)
    here = torch.full((PICTURES,), t)
    times = Times(here, here - (step or 1), torch.full_like(here, -1))
    objective = dataclasses.replace(objective, times=Given(times))
    trained = [p for p in family.unet.parameters() if p.requires_grad]
    loss = objective(nets, batch, 1.0).loss.mean()
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, trained)])


def measure(prediction_type: str, teacher: str) -> list[dict[str, Any]]:
    """A row a mode and step."""
    family = load_family(teacher)
    batch = batch_of(family, latents_of(teacher))
    add_lora(family.unet, 8)
    randomise(family.unet)
    nets, rows = make_networks(family.unet, ema_decay=None), []
    true = {t: gradient(family, nets, batch, t, "jvp", None) for t in TIMES}
    for mode in ("fd", "central"):
        for step in STEPS:
            errors, cosines = {}, {}
            for t in TIMES:
                found = gradient(family, nets, batch, t, mode, step)
                errors[t] = round(float((found - true[t]).norm() / true[t].norm()), 5)
                cosines[t] = round(float(torch.cosine_similarity(found, true[t], dim=0)), 5)
            row: dict[str, Any] = {"teacher": prediction_type, "mode": mode, "step": step}
            row |= {"median_error": round(statistics.median(errors.values()), 5)}
            rows.append({**row, "least_cosine": min(cosines.values()), "errors": errors})
            print(rows[-1], flush=True)
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    rows = [row for name, teacher in TEACHERS.items() for row in measure(name, teacher)]
    write_json(args.results, {"strength": STRENGTH, "pictures": PICTURES, "rows": rows})


if __name__ == "__main__":
    main()
