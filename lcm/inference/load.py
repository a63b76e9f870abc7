"""Adapter files into networks, with a proof that all of the file has arrived."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError

from lcm.adapter.files import AdapterFile
from lcm.adapter.full_unet import load_unet
from lcm.adapter.lora import adaptable, lora_modules
from lcm.inference.state import PipelineState, set_scaling
from lcm.system.console import silenced


def check_arrived(file: AdapterFile, layers: Sequence[Any], adapter_name: str) -> None:
    """Raises ValueError unless every layer of the file is among `layers`, finite and as strong as
    the file says: diffusers leaves out, with a log line, what it cannot place, and gives layers
    whose alpha it does not find that of another.
    """
    expected, path = len(file.down_projections), file.path
    if len(layers) != expected:
        raise ValueError(
            f"only {len(layers)} of the {expected} adapted layers in {path} found their place; "
            "nothing was changed. Where the base model is of the right kind, the file's layout is "
            f"one that diffusers does not read: lcm repair {path} OUT"
        )
    matrices = [
        part[adapter_name].weight for layer in layers for part in (layer.lora_A, layer.lora_B)
    ]
    if not all(bool(matrix.float().isfinite().all()) for matrix in matrices if not matrix.is_meta):
        raise ValueError(
            f"{path} holds values that are not finite; the training diverged, or the precision was "
            "too low"
        )
    found = sorted(float(layer.scaling[adapter_name]) for layer in layers)
    wrong = sum(
        not math.isclose(*pair, rel_tol=1e-3)
        for pair in zip(file.stated_scales, found, strict=False)
    )
    if wrong:
        raise ValueError(
            f"diffusers would play layers of {path} with another strength than alpha / rank of the "
            "file; nothing was changed. A file that it plays right is written by: lcm repair "
            f"{path} OUT"
        )


def filled(layer: Any, adapter_name: str) -> bool:
    """Whether the layer has the adapter with values: diffusers leaves matrices that it finds no
    values for on "meta", where an offloaded pipeline has its weights, too.
    """
    if adapter_name not in layer.r:
        return False
    matrices = [part[adapter_name].weight for part in (layer.lora_A, layer.lora_B)]
    return bool(layer.get_base_layer().weight.is_meta) or not any(
        matrix.is_meta for matrix in matrices
    )


def stock_load(pipe: Any, file: AdapterFile, adapter_name: str, **options: Any) -> None:
    """`pipe.load_lora_weights`. Raises ValueError, in one line, when it fails."""
    path = file.path
    if path.suffix != ".safetensors":
        raise ValueError(
            f"diffusers would read {path} as a pickle; rename it to end with .safetensors"
        )
    if not file.down_projections:
        raise ValueError(
            f"{path} holds no LoRA matrices under names that diffusers reads; use an adapter of "
            "rank decompositions, as diffusers and kohya write them. Where it is one with other "
            f"names: lcm repair {path} OUT"
        )
    if file.is_dora:
        raise ValueError(
            f"{path} is a DoRA, of which diffusers would play the LoRA alone; use a plain LoRA"
        )
    try:
        with silenced():
            pipe.load_lora_weights(
                str(path.parent), weight_name=path.name, adapter_name=adapter_name, **options
            )
    except (RuntimeError, LookupError, OSError, ValueError, SafetensorError) as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" ...")
        raise ValueError(
            f"{path} does not fit this pipeline ({reason}); use a base model of the adapter's "
            f"kind. Where it is one, diffusers does not read the file's layout: lcm repair {path} "
            "OUT"
        ) from error


def load(pipe: Any, file: AdapterFile, adapter_name: str) -> None:
    """Raises ValueError when not all of the file finds its place."""
    stock_load(pipe, file, adapter_name)
    layers = [layer for model in adaptable(pipe).values() for layer in lora_modules(model).values()]
    check_arrived(file, [layer for layer in layers if filled(layer, adapter_name)], adapter_name)


@contextmanager
def put_back_on_error(pipe: Any) -> Iterator[None]:
    """Adapters stay in the U-Net: diffusers deletes the one that it could not swap."""
    unet = adaptable(pipe)["unet"]
    containers: list[Any] = [unet.peft_config]
    for layer in lora_modules(unet).values():
        containers += [
            getattr(layer, name) for name in (*layer.adapter_layer_names, *layer.other_param_names)
        ]
    contents = [dict(container.items()) for container in containers]
    try:
        yield
    except BaseException:
        for container, content in zip(containers, contents, strict=True):
            if container.keys() != content.keys():
                container.clear()
            container.update(content)
        raise


@torch.no_grad()
def swap(pipe: Any, file: AdapterFile, adapter_name: str) -> None:
    """Puts the file's tensors into those of a loaded adapter: the same parameters, so compiled code
    need not be compiled again.

    Raises ValueError when they do not fit, and leaves the adapter as it was.
    """
    unet, *encoders = adaptable(pipe).values()
    if any(
        adapter_name in layer.r for encoder in encoders for layer in lora_modules(encoder).values()
    ):
        raise ValueError(
            f"the adapter {adapter_name!r} has a part for the text encoders, which cannot be "
            f"swapped and would stay; call lcm.detach(pipe) and attach {file.path} without hotswap"
        )
    layers = {name: layer for name, layer in lora_modules(unet).items() if adapter_name in layer.r}
    matrices = {
        name: (layer.lora_A[adapter_name].weight, layer.lora_B[adapter_name].weight)
        for name, layer in layers.items()
    }
    rank, room = file.highest_rank, max(a.shape[0] for a, _ in matrices.values())
    if rank > room:
        raise ValueError(
            f"{file.path} has rank {rank}, the adapter in its place has room for {room}; call "
            f"pipe.enable_lora_hotswap(target_rank={rank}) before the first lcm.attach, and "
            "compile after it"
        )
    saved = [(tensor, tensor.clone()) for pair in matrices.values() for tensor in pair]
    with put_back_on_error(pipe):
        try:
            for a, _ in matrices.values():
                a.zero_()  # what the file fills is seen afterwards
            stock_load(pipe, file, adapter_name, hotswap=True)
            check_arrived(
                file,
                [layers[name] for name, (a, _) in matrices.items() if bool(a.any())],
                adapter_name,
            )
        except BaseException:
            for tensor, value in saved:
                tensor.copy_(value)
            raise
    for layer in layers.values():  # `set_scale` reads it, and swapping does not write it
        layer.lora_alpha[adapter_name] = float(layer.scaling[adapter_name]) * layer.r[adapter_name]


def activate(pipe: Any, weights: Mapping[str, float], before: PipelineState) -> None:
    """Switches adapters on beside those active before, which keep their scales: loading one had
    made it the only active one.
    """
    for model in adaptable(pipe).values():
        state = before.of_model(model)
        layers = lora_modules(model)
        here = {name for layer in layers.values() for name in layer.r}
        active = [
            *state.active,
            *(name for name in weights if name in here and name not in state.active),
        ]
        for name, layer in layers.items():
            if list(layer.active_adapters) != active:
                layer.set_adapter(active, inference_mode=True)
            for key, value in state.scales(name).items():
                set_scaling(layer, key, value)
            for key in weights.keys() & layer.scaling.keys():
                weigh(layer, key, weights[key])


def weigh(layer: Any, adapter_name: str, weight: float) -> None:
    """`weight` times alpha / rank, as `set_adapters` has it."""
    scale = layer.scaling[adapter_name]
    layer.set_scale(adapter_name, weight)
    value, layer.scaling[adapter_name] = layer.scaling[adapter_name], scale
    set_scaling(layer, adapter_name, value)


def replace_unet(pipe: Any, path: str | os.PathLike[str], weight: float) -> None:
    """Raises ValueError where the U-Net in use has adapters, or for a weight: there is nothing to
    scale.
    """
    if weight != 1.0:
        raise ValueError(
            f"{path} holds a whole U-Net, not an adapter; it cannot be attached with weight "
            f"{weight}"
        )
    if lora_modules(pipe.unet):
        raise ValueError(
            f"{path} replaces the pipeline's U-Net, whose adapters would be lost; attach it first, "
            "adapters after"
        )
    pipe.register_modules(unet=load_unet(path, pipe.unet))
