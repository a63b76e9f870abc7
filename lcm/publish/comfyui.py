"""A workflow of ComfyUI that plays what a run made: the graph that its window opens, and the prompt
that its server takes, of one structure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcm.adapter.recipe import Recipe
from lcm.config.run import TrainConfig
from lcm.outputs.folder import WORKFLOW_NAME
from lcm.publish.other_programs import (
    ComfySettings,
    comfy_settings,
    sigma_words,
    single_file,
)
from lcm.system.atomic import replacing
from lcm.system.paths import write_text
from lcm.system.text import plain

Socket = tuple[int, int]
"""A node and the number of one of its outputs."""


@dataclass(frozen=True)
class Kind:
    """A node of ComfyUI: inputs and outputs with their types, widgets in the order of its window,
    and its size there in pixels.
    """

    inputs: dict[str, str]
    widgets: tuple[str, ...]
    outputs: tuple[str, ...]
    size: tuple[int, int] = (320, 110)


IN_THE_WINDOW = ("control_after_generate", "note")
"""Widgets that only the window has."""
KINDS: dict[str, Kind] = {
    "CheckpointLoaderSimple": Kind({}, ("ckpt_name",), ("MODEL", "CLIP", "VAE")),
    "UNETLoader": Kind({}, ("unet_name", "weight_dtype"), ("MODEL",)),
    "LoraLoader": Kind(
        {"model": "MODEL", "clip": "CLIP"},
        ("lora_name", "strength_model", "strength_clip"),
        ("MODEL", "CLIP"),
        (320, 130),
    ),
    "LoraLoaderModelOnly": Kind({"model": "MODEL"}, ("lora_name", "strength_model"), ("MODEL",)),
    "ModelSamplingDiscrete": Kind({"model": "MODEL"}, ("sampling", "zsnr"), ("MODEL",)),
    "CLIPSetLastLayer": Kind({"clip": "CLIP"}, ("stop_at_clip_layer",), ("CLIP",)),
    "CLIPTextEncode": Kind({"clip": "CLIP"}, ("text",), ("CONDITIONING",), (400, 130)),
    "EmptyLatentImage": Kind({}, ("width", "height", "batch_size"), ("LATENT",)),
    "KSampler": Kind(
        {
            "model": "MODEL",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "latent_image": "LATENT",
        },
        (
            *("seed", "control_after_generate", "steps", "cfg"),
            *("sampler_name", "scheduler", "denoise"),
        ),
        ("LATENT",),
        (320, 270),
    ),
    "KSamplerSelect": Kind({}, ("sampler_name",), ("SAMPLER",)),
    "ManualSigmas": Kind({}, ("sigmas",), ("SIGMAS",)),
    "SamplerCustom": Kind(
        {
            "model": "MODEL",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "sampler": "SAMPLER",
            "sigmas": "SIGMAS",
            "latent_image": "LATENT",
        },
        ("add_noise", "noise_seed", "control_after_generate", "cfg"),
        ("LATENT", "LATENT"),
        (320, 270),
    ),
    "VAEDecode": Kind({"samples": "LATENT", "vae": "VAE"}, (), ("IMAGE",), (210, 50)),
    "SaveImage": Kind({"images": "IMAGE"}, ("filename_prefix",), (), (320, 270)),
    "Note": Kind({}, ("note",), (), (400, 160)),
}
"""The nodes that come with ComfyUI, as far as they are used here."""


@dataclass
class Graph:
    """Nodes in the order in which they run, each with its links and the values of its widgets."""

    nodes: list[tuple[str, tuple[int, int], dict[str, Socket], dict[str, Any]]] = field(
        default_factory=list
    )

    def add(
        self, kind: str, place: tuple[int, int], inputs: dict[str, Socket], **widgets: Any
    ) -> int:
        """A node at a column and a row; its number."""
        assert inputs.keys() == KINDS[kind].inputs.keys(), kind
        assert widgets.keys() == {*KINDS[kind].widgets}, kind
        self.nodes.append((kind, place, inputs, widgets))
        return len(self.nodes)

    def prompt(self) -> dict[str, Any]:
        """What ComfyUI's server runs: {number: class and inputs}."""
        return {
            str(number): {
                "class_type": kind,
                "inputs": {
                    **{name: value for name, value in widgets.items() if name not in IN_THE_WINDOW},
                    **{name: [str(node), slot] for name, (node, slot) in inputs.items()},
                },
                "_meta": {"title": kind},
            }
            for number, (kind, _, inputs, widgets) in enumerate(self.nodes, 1)
            if kind != "Note"
        }

    def links(self) -> list[list[Any]]:
        """Every link: its number, from which node and output, to which node and input, its type."""
        ends = [
            (*socket, number, place, KINDS[kind].inputs[name])
            for number, (kind, _, inputs, _) in enumerate(self.nodes, 1)
            for place, (name, socket) in enumerate(inputs.items())
        ]
        return [[number, *end] for number, end in enumerate(ends, 1)]

    def workflow(self) -> dict[str, Any]:
        """What ComfyUI's window opens, version 0.4 of its format."""
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links()),
            "nodes": [self.in_the_window(number) for number in range(1, len(self.nodes) + 1)],
            "links": self.links(),
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }

    def in_the_window(self, number: int) -> dict[str, Any]:
        """One node of the window."""
        name, (column, row), inputs, widgets = self.nodes[number - 1]
        kind, links = KINDS[name], self.links()
        arriving = {link[4]: link[0] for link in links if link[3] == number}
        leaving: dict[int, list[int]] = {slot: [] for slot in range(len(kind.outputs))}
        for link in links:
            if link[1] == number:
                leaving[link[2]].append(link[0])
        return {
            "id": number,
            "type": name,
            "pos": [30 + 440 * column, 30 + 200 * row],
            "size": list(kind.size),
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "inputs": [
                {"name": socket, "type": kind.inputs[socket], "link": arriving[place]}
                for place, socket in enumerate(inputs)
            ],
            "outputs": [
                {"name": output, "type": output, "slot_index": slot, "links": leaving[slot]}
                for slot, output in enumerate(kind.outputs)
            ],
            "properties": {} if name == "Note" else {"Node name for S&R": name},
            "widgets_values": [widgets[widget] for widget in kind.widgets],
        }


# --- ours -----------------------------------------------------------------------------------------


def workflow_files(recipe: Recipe, config: TrainConfig, prompt: str) -> dict[str, str]:
    """The workflow of a run's result as the chunks of a PNG hold it, "workflow" for the window and
    "prompt" for the server, in JSON; nothing where ComfyUI cannot play it.
    """
    settings = comfy_settings(recipe, config.adapter.w_embedding)
    if settings is None:
        return {}
    file = None if config.adapter.full_finetune else config.output.weights_file
    graph = graph_of(recipe, settings, file, prompt, config.validation.validation_seed)
    return {"workflow": json.dumps(graph.workflow()), "prompt": json.dumps(graph.prompt())}


def write_workflow(output_dir: Path, chunks: Mapping[str, str]) -> None:
    """The file that ComfyUI opens, or none where there is nothing to play."""
    path = output_dir / WORKFLOW_NAME
    if not chunks:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as partial:
        write_text(partial, json.dumps(json.loads(chunks["workflow"]), indent=1) + "\n")


def graph_of(
    recipe: Recipe, settings: ComfySettings, file: str | None, prompt: str, seed: int
) -> Graph:
    """The workflow of a recipe: `file` is that of the adapter, None for a whole U-Net. It is for
    the eyes of others: models have their public names.
    """
    recipe, graph = recipe.public(), Graph()
    model, clip, vae = load(graph, recipe, file)
    if settings.sampling is not None:
        options = {"sampling": settings.sampling, "zsnr": settings.zsnr}
        model = graph.add("ModelSamplingDiscrete", (2, 0), {"model": model}, **options), 0
    if settings.clip_layer is not None:
        layer = settings.clip_layer
        clip = graph.add("CLIPSetLastLayer", (1, 2), {"clip": clip}, stop_at_clip_layer=layer), 0
    positive, negative = (
        graph.add("CLIPTextEncode", (2, row), {"clip": clip}, text=text)
        for row, text in ((1, written(prompt)), (2, ""))
    )
    side = recipe.resolution
    latent = graph.add("EmptyLatentImage", (2, 3), {}, width=side, height=side, batch_size=1)
    sockets = {
        "model": model,
        "positive": (positive, 0),
        "negative": (negative, 0),
        "latent_image": (latent, 0),
    }
    sampler = sample(graph, settings, sockets, seed)
    decode = graph.add("VAEDecode", (4, 0), {"samples": (sampler, 0), "vae": vae})
    graph.add("SaveImage", (4, 1), {"images": (decode, 0)}, filename_prefix="few-steps")
    graph.add("Note", (1, 1), {}, note="\n\n".join(notes(recipe, settings, file)))
    return graph


def sample(graph: Graph, settings: ComfySettings, sockets: dict[str, Socket], seed: int) -> int:
    """The node that draws, with those that it needs."""
    if not settings.sigmas:
        return graph.add(
            "KSampler",
            (3, 0),
            sockets,
            seed=seed,
            control_after_generate="fixed",
            steps=settings.steps,
            cfg=settings.cfg,
            sampler_name=settings.sampler,
            scheduler=settings.scheduler,
            denoise=1.0,
        )
    chosen = graph.add("KSamplerSelect", (3, 2), {}, sampler_name=settings.sampler)
    levels = graph.add("ManualSigmas", (3, 3), {}, sigmas=sigma_words(settings.sigmas))
    return graph.add(
        "SamplerCustom",
        (3, 0),
        {**sockets, "sampler": (chosen, 0), "sigmas": (levels, 0)},
        add_noise=True,
        noise_seed=seed,
        control_after_generate="fixed",
        cfg=settings.cfg,
    )


def load(graph: Graph, recipe: Recipe, file: str | None) -> tuple[Socket, Socket, Socket]:
    """The nodes that load the teacher, its styles and what was trained: model, clip and VAE."""
    base = graph.add("CheckpointLoaderSimple", (0, 0), {}, ckpt_name=single_file(recipe.teacher))
    model, clip, vae = (base, 0), (base, 1), (base, 2)
    if file is None:  # it has the styles in its weights
        name = "diffusion_pytorch_model.safetensors"
        unet = graph.add("UNETLoader", (0, 1), {}, unet_name=name, weight_dtype="default")
        return (unet, 0), clip, vae
    for row, style in enumerate(recipe.teacher_loras, 1):
        weight = float(style["weight"])
        options = {"strength_model": weight, "strength_clip": weight}
        sockets, name = {"model": model, "clip": clip}, single_file(str(style["file"]))
        node = graph.add("LoraLoader", (0, row), sockets, lora_name=name, **options)
        model, clip = (node, 0), (node, 1)
    ours = {"lora_name": file, "strength_model": 1.0}
    return (graph.add("LoraLoaderModelOnly", (1, 0), {"model": model}, **ours), 0), clip, vae


def written(prompt: str) -> str:
    """A prompt as ComfyUI is told it: brackets would be weights."""
    return re.sub(r"([()])", r"\\\1", plain(prompt))


def notes(recipe: Recipe, settings: ComfySettings, file: str | None) -> Sequence[str]:
    """What somebody who opens the workflow should know."""
    where = (
        f"{file} belongs into models/loras"
        if file
        else "The file in unet/ belongs into models/diffusion_models"
    )
    steps = ", ".join(map(str, recipe.num_inference_steps))
    return [
        f"{where}; as the checkpoint choose {plain(recipe.teacher)} or a fine-tune of it.",
        f"Made for {steps} steps at cfg {settings.cfg:g}.",
        *settings.limits,
    ]
