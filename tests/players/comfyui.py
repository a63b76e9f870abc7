"""ComfyUI, as it behaves: it keeps the original model inside, knows every layer by a list of names,
and looks for matrices under each of them; the strength is alpha / rank, or 1 without an alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


# --- how it samples -------------------------------------------------------------------------------

SMALLEST = 4.8973451890853435e-08
"""What it has for alpha_bar of the last timestep at zero terminal SNR, which diffusers has as 0, or
as 2^-24 in `EulerDiscreteScheduler`.
"""


def levels(zsnr: bool) -> Tensor:
    """The sigmas of ModelSamplingDiscrete with `eps` or `v_prediction`, of its switch `zsnr` too:
    sqrt(alpha_bar) is shifted so that the last is 0, and scaled so that the first stays.
    """
    if not zsnr:
        return noise_levels()
    root = (1 / (noise_levels() ** 2 + 1)).sqrt()
    bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    bar[-1] = SMALLEST
    return ((1 - bar) / bar).sqrt()


def known_levels(zsnr: bool, node: str | None) -> tuple[Tensor, Tensor]:
    """The times that it knows, with their sigmas: of the node with `lcm` the upper end of each of
    the 50 solver steps.
    """
    times = torch.arange(1000).view(GRID, -1)[:, -1] if node == "lcm" else torch.arange(1000)
    return times, levels(zsnr)[times]


def sigmas(steps: int, scheduler: str, zsnr: bool, node: str | None) -> list[float]:
    """The noise levels of `sgm_uniform`, on a line of times with the logarithms of the levels
    between two of them, or of `simple`, which takes every n-th; and 0.
    """
    times, known = known_levels(zsnr, node)
    if scheduler == "simple":
        return [float(known[-1 - int(i * len(known) / steps)]) for i in range(steps)] + [0.0]
    at = torch.linspace(float(times[-1]), float(times[0]), steps + 1, dtype=torch.float64)[:-1]
    at = (at - times[0]) / (times[1] - times[0])
    low, high = at.floor().long(), at.ceil().long()
    return [*torch.lerp(known[low].log(), known[high].log(), at.frac()).exp().tolist(), 0.0]


@dataclass(frozen=True)
class KSampler:
    """What its window has, with cfg 1, and what stands before it: `predicts` and `zsnr` of
    ModelSamplingDiscrete or of what it has found out of the checkpoint. SamplerCustom with what
    ManualSigmas is set to where there are `manual` ones.
    """

    predicts: str
    zsnr: bool
    sampler: str
    scheduler: str
    node: str | None = None
    manual: tuple[float, ...] = ()

    def clean(self, output: Tensor, x: Tensor, sigma: float, time: int) -> Tensor:
        """The picture that it takes a network to mean. The node with `lcm` takes any for one of
        epsilon, and has the boundary of LCM.
        """
        if self.node == "lcm":
            scaled = 10.0 * time
            skip, out = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25) ** 0.5
            return out * (x - sigma * output) + skip * x
        if self.predicts == "v_prediction":
            return x / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5
        return x - sigma * output

    def sample(self, network: Callable[[Tensor, int], Tensor], noises: Sequence[Tensor]) -> Tensor:
        """What it draws, in float32, with so many steps as there are `noises`, the first of which
        is where it begins. The network is asked with x_t of variance 1 and the nearest time that
        is known. The sampler `ddim` is `euler`.
        """
        visited = list(self.manual) or sigmas(len(noises), self.scheduler, self.zsnr, self.node)
        times, known = known_levels(self.zsnr, self.node)
        # noise of variance 1 beside the noisiest level alone; below it there would be a picture
        x = noises[0] * (visited[0] if self.manual else (1 + visited[0] ** 2) ** 0.5)
        for i, sigma in enumerate(visited[:-1]):
            time = int(times[(math.log(sigma) - known.log()).abs().argmin()])
            output = network(x / (sigma**2 + 1) ** 0.5, time)
            clean = self.clean(output, x, sigma, time)
            if self.sampler == "lcm":
                x = clean
                if visited[i + 1] > 0:
                    x = x + noises[i + 1] * visited[i + 1]
            else:
                x = x + (x - clean) / sigma * (visited[i + 1] - sigma)
        return x
