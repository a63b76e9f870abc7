"""Asks A1111, or a fork that keeps its extension Lora: `python a1111.py CHECKOUT FOLDER`. The
extension's own `load_networks` matches each file with a model that has the names of the original
and no memory; its LCM sampler samples. The window and the models around them are stand-ins.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.players.real.asking import STEPS, Asked, Perfect, answer, answer_layers, work
from tests.players.real.stand_ins import Empty, stand_in

AROUND = ["shared", "sd_models", "errors", "scripts", "sd_hijack", "cache", "hashes", "patches"]
AROUND += ["devices", "textual_inversion", "models", "sd_samplers_common"]
AROUND += ["sd_samplers_cfg_denoiser", "sd_samplers_kdiffusion"]
"""Modules of A1111 that the loader and the sampler import."""


def read_metadata(file: str) -> dict[str, Any]:
    """The header's texts; those in JSON are opened."""
    with Path(file).open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    found = header.get("__metadata__", {})
    return {key: json.loads(text) if text[:1] == "{" else text for key, text in found.items()}


def complain(*what: Any, **options: Any) -> None:
    """In the place of A1111's report of an exception, which goes on after it."""
    raise RuntimeError(*what) from sys.exc_info()[1]


def place_stand_ins(folder: Path) -> ModuleType:
    """Empty modules around, with the few things in them that are used; `shared` of them."""
    stand_in("gradio", "torchvision", *(f"modules.{name}" for name in AROUND))
    parts = {name: Empty(f"modules.{name}") for name in AROUND}
    for name, module in parts.items():
        sys.modules[module.__name__] = module
        setattr(import_module("modules"), name, module)
    shared: Any = parts["shared"]
    shared.cmd_opts = SimpleNamespace(
        lora_dir=str(folder), lyco_dir_backcompat=str(folder / "none")
    )
    shared.opts = SimpleNamespace(
        lora_in_memory_limit=0,
        lora_preferred_name="Alias from file",
        lora_not_found_warning_console=False,
        lora_not_found_gradio_warning=False,
    )
    shared.walk_files = lambda place, allowed_extensions: sorted(
        map(str, Path(place).glob("*.safetensors"))
    )
    errors: Any = parts["errors"]
    errors.display = errors.report = complain
    models: Any = parts["sd_models"]
    models.read_state_dict, models.read_metadata_from_safetensors = load_file, read_metadata
    around: Any = parts["cache"]
    around.cached_data_for_file = lambda kind, title, file, read: read()
    hashes: Any = parts["hashes"]
    hashes.sha256 = hashes.sha256_from_cache = lambda *names, **options: ""
    devices: Any = parts["devices"]
    devices.cpu, devices.device, devices.dtype = (
        torch.device("cpu"),
        torch.device("cpu"),
        torch.float32,
    )
    mmdit: Any = import_module("modules.models.sd3.mmdit")
    mmdit.QkvLinear = type("QkvLinear", (torch.nn.Linear,), {})
    denoiser: Any = parts["sd_samplers_cfg_denoiser"]
    denoiser.CFGDenoiser = torch.nn.Module
    sampler: Any = parts["sd_samplers_kdiffusion"]
    sampler.KDiffusionSampler = object
    return shared


def k_diffusion(checkout: Path) -> None:
    """The package of the checkout or the installed one, without what its first lines import."""
    own = checkout / "repositories" / "k-diffusion" / "k_diffusion"
    spec = None if own.is_dir() else importlib.util.find_spec("k_diffusion")
    if not own.is_dir() and spec is None:
        raise ModuleNotFoundError("k_diffusion is neither installed nor in the checkout")
    package: Any = ModuleType("k_diffusion")
    package.__path__ = [str(own)] if spec is None else spec.submodule_search_locations
    sys.modules["k_diffusion"] = package
    for name in ("sampling", "external", "utils"):
        setattr(package, name, import_module(f"k_diffusion.{name}"))


def skeleton(asked: Asked) -> torch.nn.Module:
    """The layers of the original model at their places, without memory."""
    root = torch.nn.Module()
    for name, (inputs, outputs, kernel) in asked.original.items():
        *path, leaf = f"diffusion_model.{name}".split(".")
        parent = root
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        with torch.device("meta"):
            layer = (
                torch.nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
                if kernel
                else torch.nn.Linear(inputs, outputs)
            )
        parent.add_module(leaf, layer)
    return root


def ask_layers(asked: Asked, shared: Any, networks: Any) -> None:
    """Every file, by the name that it has."""
    model = SimpleNamespace(
        model=skeleton(asked),
        is_sdxl=asked.name in ("SDXL", "SSD-1B"),
        cond_stage_model=torch.nn.Module(),
        conditioner=SimpleNamespace(embedders=[]),
    )
    shared.sd_model = model
    networks.assign_network_names_to_compvis_modules(model)
    networks.load_networks([asked.file.stem], [1.0], [1.0], [None])
    (loaded,) = networks.loaded_networks

    def added(module: Any) -> Any:
        return module.calc_updown(torch.zeros(module.shape))[0]

    stems = {module.network_key.split(".")[0]: module for module in loaded.modules.values()}
    answer_layers(asked, {stem: partial(added, module) for stem, module in stems.items()})
    version = networks.available_networks[asked.file.stem].sd_version.name
    answer("family", file=asked.name, family=version)


def ask_names(asked: Asked, folder: Path, networks: Any) -> None:
    """What the prompt is given for two files of one run, as they are and with a common name in
    their headers, and whether it finds them.
    """
    for output_name in (None, "same"):
        for name in ("one", "two"):
            header = {
                **asked.metadata(),
                **({"ss_output_name": output_name} if output_name else {}),
            }
            save_file(asked.tensors(), folder / f"{name}.safetensors", metadata=header)
        networks.list_available_networks()
        prompts = [networks.available_networks[name].get_alias() for name in ("one", "two")]
        asked_for = ["one", "two", *([output_name] if output_name else [])]
        networks.load_networks(asked_for, *[[None] * len(asked_for)] * 3)
        found = [net.name for net in networks.loaded_networks]
        answer("names", ss_output_name=output_name, inserted=prompts, prompt=asked_for, found=found)


def ask_times(prediction_type: str, sampler: str) -> None:
    """Schedule type SGM Uniform, with the denoiser that A1111 gives to the sampler."""
    lcm, schedulers, external, sampling = map(
        import_module,
        (
            "modules.sd_samplers_lcm",
            "modules.sd_schedulers",
            "k_diffusion.external",
            "k_diffusion.sampling",
        ),
    )
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0).float()
    picture = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    network = Perfect(picture, ((1 - alphas) / alphas) ** 0.5, prediction_type)
    model = SimpleNamespace(
        alphas_cumprod=alphas,
        device="cpu",
        apply_model=lambda x, t, *cond, **rest: network.predict(x, t),
    )
    sys.modules["modules.shared"].__dict__["sd_model"] = model
    if sampler == "LCM":
        wrapped, sample = lcm.LCMCompVisDenoiser(model), lcm.sample_lcm
    else:
        is_v = prediction_type == "v_prediction"
        kind = external.CompVisVDenoiser if is_v else external.CompVisDenoiser
        wrapped = kind(model)
        sample = {"Euler": sampling.sample_euler, "Euler a": sampling.sample_euler_ancestral}[
            sampler
        ]
    low, high = wrapped.sigmas[0].item(), wrapped.sigmas[-1].item()
    for steps in STEPS:
        sigmas = schedulers.sgm_uniform(steps, low, high, wrapped, "cpu")
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        drawn = sample(wrapped, noise * sigmas[0], sigmas, extra_args={"cond": None}, disable=True)
        network.answer("times", drawn, steps=steps, sampler=sampler, scheduler="SGM Uniform")


def main() -> None:
    checkout, files = work()
    sys.path.insert(1, str(checkout / "extensions-builtin" / "Lora"))
    folder = files[0].file.parent
    shared: Any = place_stand_ins(folder)
    k_diffusion(checkout)
    networks = import_module("networks")
    for asked in files:
        ask_layers(asked, shared, networks)
    with TemporaryDirectory() as place:
        shared.cmd_opts.lora_dir = place
        shutil.copy(files[0].file, place)
        shared.sd_model.network_layer_mapping = {}
        ask_names(files[0], Path(place), networks)
    for prediction_type in ("epsilon", "v_prediction"):
        for sampler in ("LCM", "Euler", "Euler a"):
            ask_times(prediction_type, sampler)


if __name__ == "__main__":
    main()
