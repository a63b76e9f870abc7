"""Playing on a GPU: all that a call computes with lies there, whatever is attached, in the stock
pipelines and in the few-step ones; shown on the meta device.

Stock schedulers read the time of a step from the device, once and more a step; here their times
stay on the CPU, and everything else has to keep the law.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import lcm
from benchmarks.device_law.law import DeviceLaw
from benchmarks.device_law.runs import build_pipe
from lcm import pipelines
from lcm.adapter.export import export_lora
from lcm.adapter.lora import add_lora, lora_modules
from lcm.adapter.names import LORA_TARGETS
from lcm.adapter.recipe import Recipe
from lcm.inference import SCHEDULERS
from tests.support.adapters import OF_EVERY_KIND, make_recipe
from tests.support.pipelines import MASK, PICTURE, SIZE
from tests.support.worlds import build_sd, build_sdxl

PLAYS: dict[str, dict[str, Any]] = {
    "LCMScheduler": {},
    "TCDScheduler": {"scheduler_config": {"original_inference_steps": 50}, "eta": 0.3},
    "DDIMScheduler": {
        "scheduler_config": {"timestep_spacing": "trailing", "set_alpha_to_one": True},
        "eta": 0.0,
    },
}
"""Scheduler -> what its recipe says besides."""


@pytest.fixture(autouse=True)
def times_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SCHEDULERS, "EulerDiscreteScheduler"):
        kind = getattr(diffusers, name)
        monkeypatch.setattr(kind, "set_timesteps", on_the_cpu(kind.set_timesteps))


def on_the_cpu(set_timesteps: Any) -> Any:
    @functools.wraps(set_timesteps)
    def there(self: Any, *args: Any, device: Any = None, **options: Any) -> None:
        set_timesteps(self, *args, device="cpu", **options)

    return there


def write_adapter(
    pipe: Any, folder: Path, recipe: Recipe, targets: tuple[str, ...] = OF_EVERY_KIND
) -> Path:
    """An adapter of another U-Net like the pipeline's."""
    with torch.device("meta"):
        unet = type(pipe.unet).from_config(pipe.unet.config)
        add_lora(unet, 1, targets=targets)
    folder.mkdir()
    with DeviceLaw(1.0):
        export_lora(unet, folder / "pytorch_lora_weights.safetensors", recipe)
    return folder


def tensors_of(pipe: Any) -> Iterator[Tensor]:
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            yield from (*part.parameters(), *part.buffers())


def draw(pipe: Any, **options: Any) -> DeviceLaw:
    """What a call asks of the host. The pictures stay on the device."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(0)
    with DeviceLaw() as law:
        images = pipe("a red star", generator=generator, output_type="pt", **options).images
    assert images.is_meta and not law.reads
    return law


def test_an_adapter_of_all_layers_plays_at_true_size(tmp_path: Path) -> None:
    """All 278 layers of Stable Diffusion 1.5, by a file as runs write it, and off again."""
    pipe = build_pipe("sd15", torch.float16)
    pipe.vae.half()
    recipe = make_recipe(width=768)
    before = len(list(tensors_of(pipe)))
    with DeviceLaw() as law:
        lcm.attach(pipe, write_adapter(pipe, tmp_path / "adapter", recipe, LORA_TARGETS))
    assert len(lora_modules(pipe.unet)) == 278 and not law.reads
    tensors = list(tensors_of(pipe))
    assert len(tensors) == before + 2 * 278 and all(tensor.is_meta for tensor in tensors)
    draw(pipe)
    lcm.detach(pipe)
    assert len(list(tensors_of(pipe))) == before


@pytest.mark.parametrize("scheduler", SCHEDULERS[1:])  # the first plays below
def test_every_scheduler_of_a_recipe_plays_on_the_device(scheduler: str, tmp_path: Path) -> None:
    pipe = build_sdxl().to("meta")
    recipe = make_recipe("sdxl", 32, scheduler=scheduler, **PLAYS[scheduler])
    lcm.attach(pipe, write_adapter(pipe, tmp_path / "adapter", recipe), weight=0.8)
    assert all(tensor.is_meta for tensor in tensors_of(pipe))
    draw(pipe, **SIZE, guidance_scale=2.0, num_inference_steps=2)


@pytest.mark.parametrize("name", [name for name in pipelines.__all__ if name.startswith("FewStep")])
def test_every_few_step_pipeline_plays_on_the_device(name: str, tmp_path: Path) -> None:
    kind = getattr(pipelines, name)
    stock = (build_sdxl() if "XL" in name else build_sd()).to("meta")
    options = {} if "XL" in name else {"requires_safety_checker": False}
    pipe = kind(**stock.components, **options)
    recipe = make_recipe("sdxl", 32) if "XL" in name else make_recipe()
    pipe.attach(write_adapter(pipe, tmp_path / "adapter", recipe))
    pictures = {"image": PICTURE, "mask_image": MASK}
    needed = {key: pictures[key] for key in getattr(kind, "pictures", ())}
    size = SIZE if not needed or "mask_image" in needed else {}
    draw(pipe, **size, **needed, num_inference_steps=2)
