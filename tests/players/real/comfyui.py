"""Asks ComfyUI: `python comfyui.py CHECKOUT FOLDER`. It detects the model from a U-Net of true size
without memory, loads each file with `load_lora_for_models`, and samples with its own KSampler.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from typing import Any

import torch

from tests.players.real.asking import STEPS, Asked, Perfect, answer_layers, work
from tests.players.real.stand_ins import stand_in

CPU = torch.device("cpu")


def ask_layers(asked: Asked) -> None:
    """Every file on the model that ComfyUI takes its U-Net for."""
    detection, sd, lora, patcher = (
        import_module(f"comfy.{name}")
        for name in ("model_detection", "sd", "lora", "model_patcher")
    )
    config = detection.model_config_from_diffusers_unet(asked.meta_state())
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="meta")
    model.device = CPU
    tensors = asked.tensors()
    patched, _ = sd.load_lora_for_models(
        patcher.ModelPatcher(model, CPU, CPU), None, tensors, 1.0, 0.0
    )
    # a parameter has several names; ours is the one in the file
    known = lora.model_lora_keys_unet(model, {})
    names = {key: stem for stem, key in known.items() if f"{stem}.alpha" in tensors}
    shapes = {key: value.shape for key, value in model.state_dict().items()}

    def added(key: str) -> Any:
        return lora.calculate_weight(patched.patches[key], torch.zeros(shapes[key]), key)

    answer_layers(asked, {names[key]: partial(added, key) for key in patched.patches})


def ask_times(prediction_type: str, sampler: str, sampling: str | None) -> None:
    """KSampler with the scheduler `sgm_uniform`, behind the node ModelSamplingDiscrete or not."""
    base, patcher, models, sample = (
        import_module(f"comfy.{name}")
        for name in ("model_base", "model_patcher", "supported_models", "sample")
    )
    nodes = import_module("comfy_extras.nodes_model_advanced")
    config = models.SD15({"image_size": 32, "dtype": torch.float32})
    config.set_inference_dtype(torch.float32, None)
    kind = base.ModelType.EPS if prediction_type == "epsilon" else base.ModelType.V_PREDICTION
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    class Network(Perfect):
        def __init__(self, **options: Any) -> None:
            super().__init__(latents, torch.ones(1000), prediction_type)

        def forward(self, x: Any, timesteps: Any, *inputs: Any, **options: Any) -> Any:
            return self.predict(x, timesteps)

    model = base.BaseModel(config, kind, CPU, Network)
    network = model.diffusion_model
    network.sigmas = model.model_sampling.sigmas.clone()
    played = patcher.ModelPatcher(model, CPU, CPU)
    if sampling:
        (played,) = nodes.ModelSamplingDiscrete().patch(played, sampling, False)
    words = [[torch.zeros(1, 77, 768), {}]]
    for steps in STEPS:
        drawn = sample.sample(
            played,
            torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
            *(steps, 1.0, sampler, "sgm_uniform", words, words, torch.zeros(1, 4, 8, 8)),
            seed=0,
            disable_pbar=True,
        )
        known = model.latent_format.process_out(network.picture)
        network.picture, latent = known, network.picture
        setting = {"sampler": sampler, "scheduler": "sgm_uniform", "node": sampling}
        network.answer("times", drawn, steps=steps, **setting)
        network.picture = latent


def main() -> None:
    stand_in(
        "torchvision", "torchaudio", "aiohttp", "av", "spandrel", "kornia", "alembic", "sqlalchemy"
    )
    _, files = work()
    sys.argv.append("--cpu")
    import_module("comfy.options").enable_args_parsing()
    for asked in files:
        ask_layers(asked)
    for case in [
        ("epsilon", "lcm", "lcm"),
        ("epsilon", "lcm", None),
        ("epsilon", "ddim", None),
        ("v_prediction", "lcm", "v_prediction"),
        ("v_prediction", "lcm", "lcm"),
    ]:
        ask_times(*case)


if __name__ == "__main__":
    main()
