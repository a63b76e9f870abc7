"""ComfyUI, as it behaves: it keeps the original model inside, knows every layer by a list of names,
and looks for matrices under each of them; the strength is alpha / rank, or 1 without an alpha.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.support.ldm import Original, diffusers_name, ldm_layers

MATRICES = {
    ".lora_up.weight": ".lora_down.weight",
    "_lora.up.weight": "_lora.down.weight",
    ".lora_B.weight": ".lora_A.weight",
    ".lora.up.weight": ".lora.down.weight",
    ".lora_linear_layer.up.weight": ".lora_linear_layer.down.weight",
    ".lora_B.default.weight": ".lora_A.default.weight",
}
"""How the names of the two matrices end."""
GRID = 50
"""The solver steps that ModelSamplingDiscrete has with `lcm`."""


def names_of(layer: str) -> list[str]:
    """What a file may call a layer of the original model."""
    ours = diffusers_name(layer)
    older = ours.replace(".to_", ".processor.to_").replace("to_out.0", "to_out")
    underscored = ours.replace(".", "_")
    return [
        f"lora_unet_{layer.replace('.', '_')}",
        f"diffusion_model.{layer}",
        f"lora_unet_{underscored}",
        f"lycoris_{underscored}",
        older,
        f"unet.{older}",
    ]


def places(state: dict[str, Tensor], model: Original) -> dict[str, float]:
    """The layers that it patches, by the names of the original model, and their strengths."""
    found = {}
    for layer, _ in ldm_layers(model):
        for name in names_of(layer):
            for up, down in MATRICES.items():
                if name + up in state:
                    alpha = state.get(f"{name}.alpha")
                    rank = len(state[name + down])
                    found[layer] = 1.0 if alpha is None else float(alpha) / rank
    return found


def noise_levels() -> Tensor:
    """Its sigmas: those of the schedule that all these models have."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    return ((1 - alphas) / alphas).sqrt()


def times(steps: int, sampling: str | None, scheduler: str = "sgm_uniform") -> list[int]:
    """The times that a U-Net is asked for: of each noise level of the scheduler the nearest that
    the model's sampling knows.
    """
    known = torch.arange(1000)
    if sampling == "lcm":  # the upper end of each of the solver steps
        known = known.view(GRID, -1)[:, -1]
    logs = noise_levels()[known].log()
    last = len(known) - 1
    if scheduler == "simple":
        return [int(known[last - int(i * len(known) / steps)]) for i in range(steps)]
    ends = torch.linspace(float(known[-1]), float(known[0]), steps + (scheduler == "sgm_uniform"))
    # in between, the logarithms are on a line
    at = (ends[:steps].double() - known[0]) / (known[1] - known[0])
    low = at.floor().long().clamp(0, last)
    levels = torch.lerp(logs[low], logs[(low + 1).clamp(max=last)], at - low)
    return [int(known[(level - logs).abs().argmin()]) for level in levels]
