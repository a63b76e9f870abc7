"""Code that loads and plays what a run made, for this machine or for others: the same structure
with the names that the reader's machine knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcm.adapter.locate import locate
from lcm.adapter.names import UNET_FOLDER
from lcm.adapter.recipe import Recipe
from lcm.config.sections import TeacherConfig
from lcm.models.single_file import is_single_file
from lcm.models.styles import Style
from lcm.publish.other_programs import clip_skip_of
from lcm.system.public_names import Named, expanded, public_name
from lcm.system.text import literal

PIPELINES = {"sd": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
FULL_PRECISION = ", torch_dtype=torch.float32"
LOAD_STYLE = (
    'pipe.load_lora_weights("path/to", weight_name="style.safetensors", adapter_name="style")'
)


@dataclass(frozen=True)
class Models:
    """What code loads beside the result of a run."""

    teacher: Named
    is_file: bool
    """Whether the teacher is a single file."""
    base_config: Named | None = None
    vae: Named | None = None
    revision: str | None = None
    variant: str | None = None
    styles: list[tuple[Named, float]] = field(default_factory=list)

    @classmethod
    def of(cls, config: TeacherConfig) -> Models:
        """The models that the flags name."""

        def named(path: str | None) -> Named | None:
            return None if path is None else Named.of(path)

        return cls(
            teacher=Named.of(config.path),
            is_file=is_single_file(config.path),
            base_config=named(config.base_config),
            vae=named(config.pretrained_vae_model_name_or_path),
            revision=config.teacher_revision,
            variant=config.variant,
            styles=[style_of(Style.parse(text)) for text in config.teacher_lora],
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Models:
        """From what `asdict` makes of it. Raises KeyError or TypeError for anything else."""

        def named(value: Any) -> Named | None:
            return None if value is None else Named(**value)

        parts = {name: named(values[name]) for name in ("base_config", "vae")}
        styles = [(Named(**name), float(weight)) for name, weight in values["styles"]]
        teacher = Named(**values["teacher"])
        return cls(**{**values, **parts, "teacher": teacher, "styles": styles})

    @property
    def all_names(self) -> list[Named]:
        """Every name in it."""
        named = [self.teacher, self.base_config, self.vae, *(name for name, _ in self.styles)]
        return [name for name in named if name is not None]


def style_of(style: Style) -> tuple[Named, float]:
    """A style LoRA, of a folder the file in it, and its weight."""
    path = expanded(style.path)
    file = str(locate(path).absolute()) if path.is_dir() else Named.of(style.path).local
    return Named(file, public_name(style.path)), style.weight


@dataclass(frozen=True)
class View:
    """The reader of code: how it names a model for them, and `result`, what the run made; `where`
    is a sentence on where it runs.
    """

    name: Callable[[Named], str]
    result: str
    where: str


def view_from_here(folder: str) -> View:
    """That of this machine: absolute paths, as that of the result's `folder`, which hold
    everywhere.
    """
    return View(lambda name: name.local, folder, "It runs on this machine, from any folder:")


def view_of_others(repo_id: str, models: Models) -> View:
    """That of anybody who has the repository of the hub."""
    where = "It loads everything from the hub:"
    if any(name.is_local for name in models.all_names):
        where = (
            "The base model or a file beside it is not on the hub: where the code has a mere name, "
            "put the path of your copy."
        )
    return View(lambda name: name.public, repo_id, where)


# --- lines of Python ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Code:
    """The code for a result: `file` is the adapter's in its folder, None for a whole U-Net."""

    recipe: Recipe
    models: Models
    file: str | None
    seed: int
    prompt: str

    def call_options(self) -> str:
        """The arguments of a call besides prompt and size."""
        recipe = self.recipe
        eta = f"\n    eta={recipe.eta:g}," if recipe.eta else ""
        skipped = clip_skip_of(recipe)
        clip_skip = f"\n    clip_skip={skipped}," if skipped else ""
        steps = "".join(f"{name}={value},\n    " for name, value in recipe.usual_call().items())
        return f"{steps}guidance_scale={recipe.guidance_scale:g},{eta}{clip_skip}"

    def teacher_call(self, view: View, more: str = "") -> str:
        """The call that loads the teacher, with `more` arguments."""
        models, method = self.models, "from_pretrained"
        options = {"revision": models.revision, "variant": models.variant}
        if models.is_file:
            config = models.base_config
            method, options = "from_single_file", {"config": view.name(config) if config else None}
        given = "".join(f", {name}={literal(v)}" for name, v in options.items() if v is not None)
        pipeline = PIPELINES[self.recipe.family]
        return f"{pipeline}.{method}({literal(view.name(models.teacher))}{given}{more})"

    def imports(self) -> str:
        """The classes of diffusers that the code names."""
        names = {self.recipe.scheduler, PIPELINES[self.recipe.family]}
        names |= {"AutoencoderKL"} if self.models.vae else set()
        names |= set() if self.file else {"UNet2DConditionModel"}
        return ", ".join(sorted(names))

    def loading(self, view: View) -> str:
        """The lines that load the teacher, the result, and the teacher's styles beside an
        adapter; a whole U-Net has them in its weights.
        """
        lines, more = [], ""
        if self.models.vae:
            vae = literal(view.name(self.models.vae))
            lines.append(f"vae = AutoencoderKL.from_pretrained({vae}{FULL_PRECISION})")
            more += ", vae=vae"
        if self.file is None:
            lines.append(
                f"unet = UNet2DConditionModel.from_pretrained({literal(view.result)}, "
                f'subfolder="{UNET_FOLDER}"{FULL_PRECISION})'
            )
            more += ", unet=unet"
        lines.append(f"pipe = {self.teacher_call(view, more + FULL_PRECISION)}")
        if self.file is not None:
            lines.append(
                f"pipe.load_lora_weights({literal(view.result)}, "
                f'weight_name={literal(self.file)}, adapter_name="lcm")'
            )
            lines += self.style_lines(view)
        return "\n".join(lines)

    def style_lines(self, view: View) -> list[str]:
        """The lines that load styles beside an adapter named lcm and set all weights, if there are
        any.
        """
        styles = self.models.styles
        if not styles:
            return []
        loads = [
            f'pipe.load_lora_weights({weight_file(view.name(style))}, adapter_name="{name}")'
            for (style, _), name in zip(styles, self.style_names, strict=True)
        ]
        return [*loads, self.weights_line()]

    @property
    def style_names(self) -> list[str]:
        """What the code calls the teacher's styles."""
        return [f"style_{number}" for number in range(1, len(self.models.styles) + 1)]

    def weights_line(self, **more: float) -> str:
        """The line that sets the weights of the result, of the teacher's styles, and of `more`
        adapters: those that it does not name are switched off.
        """
        adapters = ", ".join(map(literal, ["lcm", *self.style_names, *more]))
        weights = [1.0, *(weight for _, weight in self.models.styles), *more.values()]
        return f"pipe.set_adapters([{adapters}], {weights})"

    def with_style(self) -> str:
        """Further lines of Python that draw the picture in a style of the reader's."""
        if self.file is None:
            return LOAD_STYLE
        return f"{LOAD_STYLE}\n{self.weights_line(style=0.8)}"

    def final_norm(self) -> str:
        """Further lines of Python without which `clip_skip` of Stable Diffusion fails in diffusers
        0.42 with transformers from 5.6 on.
        """
        if not clip_skip_of(self.recipe) or self.recipe.family == "sdxl":
            return ""
        return """
# clip_skip needs it: https://github.com/huggingface/diffusers/issues/14124
if not hasattr(pipe.text_encoder, "text_model"):
    vars(pipe.text_encoder)["text_model"] = pipe.text_encoder"""

    def snippet(self, view: View) -> str:
        """Python code that draws one picture with stock diffusers."""
        recipe = self.recipe
        config = recipe.scheduler_config
        if recipe.prediction_type != "epsilon":  # which stock diffusers assumes of a single file
            config = {**config, "prediction_type": recipe.prediction_type}
        overrides = "".join(
            f"    {name}={literal(value)},\n" for name, value in sorted(config.items())
        )
        return f"""import torch
from diffusers import {self.imports()}

{self.loading(view)}
pipe.scheduler = {recipe.scheduler}.from_config(
    pipe.scheduler.config,
{overrides}){self.final_norm()}
image = pipe(
    {literal(self.prompt)},
    {self.call_options()}
    height={recipe.resolution},
    width={recipe.resolution},
    generator=torch.Generator("cpu").manual_seed({self.seed}),
).images[0]
image.save("image.png")"""

    def adapters(self, view: View) -> str:
        """What `lcm.attach` takes: the result, with the teacher's styles beside an adapter."""
        styles = self.models.styles if self.file else []
        if not styles:
            return literal(view.result)
        weights = [(view.result, 1.0), *((view.name(style), weight) for style, weight in styles)]
        return "{" + ", ".join(f"{literal(name)}: {weight}" for name, weight in weights) + "}"

    def attaching(self, view: View) -> str:
        """Python code that draws one picture with `lcm.attach`."""
        kind, says = self.recipe.prediction_type, ""
        if self.models.is_file and kind != "epsilon":
            says = f"pipe.scheduler.register_to_config(prediction_type={literal(kind)})\n"
        return f"""import lcm
from diffusers import {PIPELINES[self.recipe.family]}

pipe = {self.teacher_call(view)}
{says}recipe = lcm.attach(pipe, {self.adapters(view)})
image = pipe(
    {literal(self.prompt)},
    {self.call_options()}
).images[0]"""


def weight_file(name: str) -> str:
    """The first arguments of `load_lora_weights` for a file, or for one of a repository."""
    parts = name.split("/")
    if len(parts) <= 2 or Path(name).is_absolute():
        if not name.endswith(".safetensors"):
            return literal(name)
        place, _, file = name.rpartition("/")
        return f"{literal(place or '.')}, weight_name={literal(file)}"
    repository, file = "/".join(parts[:2]), "/".join(parts[2:])
    return f"{literal(repository)}, weight_name={literal(file)}"
