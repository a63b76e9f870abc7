"""What attaching changes in a pipeline, written down beforehand so that it can be undone
exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lcm.adapter.lora import adaptable, lora_modules
from lcm.adapter.recipe import Recipe
from lcm.libraries.peft import activate

LOADER_ATTRIBUTES = ("peft_config", "_hf_peft_config_loaded", "_prepare_lora_hotswap_kwargs")
"""What the loaders of diffusers and transformers keep in the instance."""


def adapter_names(pipe: Any) -> set[str]:
    """The names of all adapters of a pipeline, active or not."""
    return {
        name
        for model in adaptable(pipe).values()
        for layer in lora_modules(model).values()
        for name in layer.r
    }


def set_scaling(layer: LoraLayer, name: str, value: float | Tensor) -> None:
    """Sets it in place where the layer is prepared for hot-swapping: compiled code reads this very
    tensor.
    """
    if isinstance(layer.scaling[name], Tensor):
        layer.scaling[name].fill_(float(value))
    else:
        layer.scaling[name] = float(value)


def delete_from(layer: LoraLayer, names: Collection[str]) -> None:
    for name in names:
        if name in layer.r:
            layer.delete_adapter(name)


@dataclass
class ModelState:
    """The adapters of one network: active ones and scales of every adapted layer, gradients, modes,
    what the loaders keep.
    """

    model: Any
    layers: dict[str, tuple[list[str], dict[str, float]]] = field(default_factory=dict)
    gradients: list[tuple[nn.Parameter, bool]] = field(default_factory=list)
    modes: list[tuple[nn.Module, bool]] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any) -> ModelState:
        layers = {
            name: (
                list(layer.active_adapters),
                {key: float(scale) for key, scale in layer.scaling.items()},
            )
            for name, layer in lora_modules(model).items()
        }
        attributes = {name: vars(model)[name] for name in LOADER_ATTRIBUTES if name in vars(model)}
        gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        return cls(
            model,
            layers,
            gradients,
            [(module, module.training) for module in model.modules()],
            attributes,
        )

    @property
    def active(self) -> list[str]:
        return next((names for names, _ in self.layers.values()), [])

    def scales(self, layer: str) -> dict[str, float]:
        return self.layers.get(layer, ([], {}))[1]

    def restore(self, added: Collection[str]) -> None:
        """Takes the adapters `added` out, however much of them was loaded. What others loaded
        meanwhile stays, and stays active.
        """
        for name, layer in lora_modules(self.model).items():
            later = [key for key in layer.active_adapters if key in layer.r and key not in added]
            delete_from(layer, added)
            if name in self.layers:
                active, scales = self.layers[name]
                activate(layer, [*active, *(key for key in later if key not in scales)])
                for key in scales.keys() & layer.scaling.keys():
                    set_scaling(layer, key, scales[key])
            elif layer.r:
                activate(layer, later)
            else:
                parent, _, child = name.rpartition(".")
                setattr(self.model.get_submodule(parent), child, layer.get_base_layer())
        self._restore_attributes(added)
        for parameter, requires_grad in self.gradients:
            parameter.requires_grad_(requires_grad)
        for module, training in self.modes:
            module.training = training

    def _restore_attributes(self, added: Collection[str]) -> None:
        here = vars(self.model)
        for name in added:
            here.get("peft_config", {}).pop(name, None)
        if here.get("peft_config"):
            return  # what is left was there before, or was loaded meanwhile
        for name in LOADER_ATTRIBUTES:
            here.pop(name, None)
        here.update(self.attributes)


@dataclass
class PipelineState:
    """Scheduler, U-Net and adapters of a pipeline."""

    scheduler: Any
    unet: Any
    models: list[ModelState]

    @classmethod
    def of(cls, pipe: Any) -> PipelineState:
        return cls(
            pipe.scheduler, pipe.unet, [ModelState.of(model) for model in adaptable(pipe).values()]
        )

    def of_model(self, model: Any) -> ModelState:
        """Empty for a network that was not there."""
        return next((state for state in self.models if state.model is model), ModelState(model))

    def add(self, other: PipelineState) -> None:
        """Takes the networks that `other` has besides."""
        known = [state.model for state in self.models]
        self.models += [
            state for state in other.models if not any(state.model is model for model in known)
        ]

    def restore(self, pipe: Any, added: Collection[str]) -> None:
        """Puts back the same objects as before, without the adapters `added`."""
        modules = {"unet": self.unet, "scheduler": self.scheduler}
        pipe.register_modules(
            **{
                name: module
                for name, module in modules.items()
                if getattr(pipe, name) is not module
            }
        )
        for model in self.models:
            model.restore(added)


@dataclass
class Attachment:
    """What `attach` did to a U-Net, and to every pipeline that draws with it. `before` is the state
    before the first one; `recipes` are those of the adapters by name, `lead` the adapter that
    `recipe` is of (None: a whole U-Net), `files` what is known of their files.
    """

    before: PipelineState
    recipe: Recipe
    scheduler: Any
    unet: Any
    lead: str | None = None
    added: set[str] = field(default_factory=set)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    files: dict[str, Hashable] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)
    steps: int | None = None
    """How many steps the call in progress will make, where image-to-image pipelines have said it.
    """
    teacher_first_steps: int = 0
    """How many steps of a call the teacher makes, before the adapter makes the others."""
    beginning: Any = None
    """The `lcm.inference.first_steps.Beginning` of the call in progress."""


MEMBERS: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""The pipelines that have an attachment, by id: those that share a U-Net find each other here."""


def unwrapped(model: Any) -> Any:
    """A network out of its compiled wrapping."""
    return getattr(model, "_orig_mod", model)


def own_attachment(pipe: Any) -> Attachment | None:
    found: Attachment | None = vars(pipe).get("_lcm_attachment")
    return found


def members() -> list[Any]:
    live = [reference() for reference in MEMBERS.valuerefs()]
    return [pipe for pipe in live if pipe is not None]


def members_of(found: Attachment) -> list[Any]:
    """The pipelines that have it."""
    return [pipe for pipe in members() if own_attachment(pipe) is found]


def attachment(pipe: Any) -> Attachment | None:
    """That of the pipeline, or else of another that draws with the same U-Net."""
    if (found := own_attachment(pipe)) is not None:
        return found
    unet = unwrapped(pipe.unet)
    for other in members():
        shared = own_attachment(other)
        if shared is not None and unwrapped(other.unet) is unet:
            return shared
    return None


def current_recipe(pipe: Any) -> Recipe | None:
    """The recipe that `attach` set the pipeline up for; None where it did not, or where the adapter
    has been taken out since.
    """
    found = own_attachment(pipe)
    if found is None or (found.lead is not None and found.lead not in adapter_names(pipe)):
        return None
    return found.recipe
