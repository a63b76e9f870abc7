"""Adapter files into networks, with a proof that all of the file has arrived."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError

from lcm.adapter.files import AdapterFile
from lcm.adapter.full_unet import load_unet
from lcm.adapter.lora import adaptable, lora_modules
from lcm.formats.advice import way_on
from lcm.formats.apply import place_of
from lcm.formats.factors import Adapter
from lcm.inference.judge import fits, judge
from lcm.inference.state import PipelineState, set_scaling
from lcm.libraries import peft
from lcm.libraries.diffusers import check_text_encoders
from lcm.system.console import silenced


def check_arrived(
    pipe: Any, file: AdapterFile, adapter: Adapter, adapter_name: str, arrived: Mapping[str, Any]
) -> None:
    """Raises ValueError unless the layers that `arrived`, by "<component>.<layer>", are those of
    the file, finite and as strong as the file says: diffusers leaves out, with a log line, what it
    cannot place, and gives layers whose alpha it does not find that of another.
    """
    expected = {".".join(place_of(pipe, name)): f for name, f in adapter.modules.items()}
    path = file.path
    if missing := [name for name in expected if name not in arrived]:
        raise ValueError(
            f"diffusers leaves out {len(missing)} of the {len(expected)} adapted layers in {path}, "
            f"{missing[0]} first; nothing was changed; {way_on(file, fits(pipe))}"
        )
    matrices = [
        part[adapter_name].weight
        for layer in arrived.values()
        for part in (layer.lora_A, layer.lora_B)
    ]
    if not all(bool(matrix.float().isfinite().all()) for matrix in matrices if not matrix.is_meta):
        raise ValueError(
            f"{path} holds values that are not finite in {matrices[0].dtype}, the precision of "
            "this pipeline; load it in a wider one"
        )
    wrong = sum(
        not math.isclose(float(arrived[name].scaling[adapter_name]), factors.scale, rel_tol=1e-3)
        for name, factors in expected.items()
    )
    if wrong:
        raise ValueError(
            f"diffusers would play {wrong} layers of {path} with another strength than alpha / "
            f"rank of the file; nothing was changed; {way_on(file, fits(pipe))}"
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
    try:
        with silenced():
            pipe.load_lora_weights(
                str(path.parent),
                weight_name=path.name,
                adapter_name=adapter_name,
                use_safetensors=True,
                **options,
            )
    except (RuntimeError, LookupError, OSError, ValueError, SafetensorError) as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" ...")
        raise ValueError(
            f"diffusers does not read {path} ({reason}); {way_on(file, fits(pipe))}"
        ) from error


def load(pipe: Any, file: AdapterFile, adapter_name: str) -> None:
    """Raises ValueError for a file with problems, and when not all of it finds its place."""
    adapter = judge(pipe, file)
    check_text_encoders(adapter.modules)
    stock_load(pipe, file, adapter_name)
    arrived = {
        f"{component}.{name}": layer
        for component, model in adaptable(pipe).items()
        for name, layer in lora_modules(model).items()
        if filled(layer, adapter_name)
    }
    check_arrived(pipe, file, adapter, adapter_name, arrived)


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
    adapter = judge(pipe, file)
    rank = max(factors.rank for factors in adapter.modules.values())
    room = max(a.shape[0] for a, _ in matrices.values())
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
            peft.keep_dtype(saved)
            arrived = {f"unet.{name}": layers[name] for name, (a, _) in matrices.items() if a.any()}
            check_arrived(pipe, file, adapter, adapter_name, arrived)
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
                peft.activate(layer, active)
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
