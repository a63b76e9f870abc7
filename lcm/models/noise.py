"""What the network of a base model predicts, and of which noise: as its scheduler says, as a file
says of itself, or as the user does.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler

from lcm.adapter.files import read_header, tensor_names
from lcm.adapter.recipe import UNCLIPPED

V_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
"""Empty tensors by which v models of SDXL say of themselves what ComfyUI and Forge read."""


@dataclass(frozen=True)
class Noise:
    """What is said of a model besides its scheduler; nothing, by default."""

    prediction_type: str | None = None
    zero_terminal_snr: bool = False

    @classmethod
    def said_by(cls, path: Path) -> Noise:
        """What a single file says of itself: nothing of most, which are epsilon models. Zero
        terminal SNR is heeded of a v model alone, as in ComfyUI.
        """
        names = tensor_names(path)
        header = read_header(path).get("modelspec.prediction_type", "")
        if V_MARK not in names and not header.startswith("v"):
            return cls()
        return cls("v_prediction", ZERO_SNR_MARK in names)

    def overrides(self) -> dict[str, Any]:
        """It as entries of a scheduler's configuration. Where the last timestep is pure noise it
        is also where playing begins.
        """
        said: dict[str, Any] = {}
        if self.prediction_type is not None:
            said["prediction_type"] = self.prediction_type
        if self.zero_terminal_snr:
            said |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return said


def set_noise(pipe: Any, noise: Noise) -> None:
    """Gives the pipeline's scheduler what is said of the model. A class that does not know zero
    terminal SNR makes room for `DDIMScheduler`. Raises ValueError for an epsilon model with it.
    """
    said, config = noise.overrides(), pipe.scheduler.config
    if not said:
        return
    predicts = said.get("prediction_type", config.get("prediction_type", "epsilon"))
    if predicts == "epsilon" and noise.zero_terminal_snr:
        raise ValueError(
            "zero_terminal_snr: this is an epsilon model, and none of these has it; leave it out, "
            "or pass prediction_type v_prediction if that is what it predicts"
        )
    if predicts == "epsilon" and config.get("rescale_betas_zero_snr", False):
        said["rescale_betas_zero_snr"] = False  # the user knows better than the file
    kind = type(pipe.scheduler)
    if not said.keys() <= inspect.signature(kind.__init__).parameters.keys():
        kind, said = DDIMScheduler, {**said, **UNCLIPPED}
    pipe.register_modules(scheduler=kind.from_config(config, **said))
