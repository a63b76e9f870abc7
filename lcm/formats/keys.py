"""Tensor names of adapter files, taken apart: which layer, which part of its adapter, and in whose
spelling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from lcm.adapter.prefixes import PREFIXES, strip, unwrapped
from lcm.formats.names import dotted, from_ldm, is_layer

PART = re.compile(
    r"(?P<kohya>\.lora_(?P<k>down|up)\.weight)|(?P<peft>\.lora_(?P<p>[AB])(?:\.(?P<adapter>\w+))?\.weight)"
    r"|(?P<old>[._]lora(?:_linear_layer)?\.(?P<o>down|up)\.weight)|(?P<alpha>\.alpha)"
    r"|(?P<bare>\.lora_(?P<b>[AB]))$"
)
STYLES = ("kohya", "peft", "old", "alpha", "bare")
DIRECTION = {"A": "down", "B": "up"}

SPELLINGS: dict[tuple[str, str, bool], str] = {
    ("lora_", "kohya", False): "kohya",
    ("lora_", "kohya", True): "kohya with ldm blocks",
    ("unet.", "peft", False): "diffusers",
    ("unet.", "old", False): "old diffusers",
    ("diffusion_model.", "kohya", True): "ldm",
    ("diffusion_model.", "peft", True): "ldm",
    ("base_model.model.", "peft", False): "peft",
    ("", "peft", False): "model only",
    ("", "old", False): "old model only",
}
"""Prefix, style of the parts, whether blocks are numbered as in the original ldm model -> the
layout that is spelt so.
"""

KOHYA_PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")


class Foreign(NamedTuple):
    """Tensors that are no part of a LoRA: what they are; where the LoRA beside them is whole
    without them, the patterns of `--drop` that leave them out; and whether diffusers plays them.
    """

    pattern: re.Pattern[str]
    what: str
    drop: tuple[str, ...] = ()
    is_played: bool = False


FOREIGN = (
    Foreign(re.compile(r"\.dora_scale"), "a DoRA scale, which a plain LoRA cannot express"),
    Foreign(
        re.compile(r"\.lora_magnitude_vector"),
        "a DoRA scale, which a plain LoRA cannot express",
        is_played=True,  # in PEFT's spelling
    ),
    Foreign(re.compile(r"\.hada_"), "part of a LoHa"),
    Foreign(re.compile(r"\.lokr_"), "part of a LoKr"),
    Foreign(
        re.compile(r"\.(oft_|boft_|glora|[ab][12]\.weight$|ia3_|on_input$|vera_lambda)"),
        "part of an adapter that is no LoRA",
    ),
    Foreign(
        re.compile(r"\.lora_mid\."),
        "the core of a Tucker decomposition, which diffusers does not load",
    ),
    Foreign(
        re.compile(r"^bundle_emb\."),
        "a trigger word's embedding, to be loaded apart by load_textual_inversion",
        ("bundle_emb.*",),
    ),
    Foreign(
        re.compile(r"\.(diff_b|b_norm)$"),
        "a plain weight difference, no LoRA: of a bias",
        ("*.diff_b", "*.b_norm"),
    ),
    Foreign(
        re.compile(r"\.(diff|w_norm|set_weight|reshape_weight)$"),
        "a plain weight difference, no LoRA",
        ("*.diff", "*.w_norm", "*.set_weight", "*.reshape_weight"),
    ),
    Foreign(
        re.compile(r"\.(lora_[AB]|lora_down|lora_up)\.bias$"),
        "a bias beside the matrices, which no other layout has",
        ("*.bias",),
    ),
    Foreign(
        re.compile(r"\.lora_embedding_|modules_to_save"), "beside LoRA, and loads nowhere else"
    ),
    Foreign(
        re.compile(r"\.scale_(weight|input)$|^scaled_fp8$"),
        "the scale of numbers of 8 bits, which are wrong without it",
    ),
)


ANY_FOREIGN = re.compile("|".join(f"(?:{kind.pattern.pattern})" for kind in FOREIGN))


def foreign(key: str) -> Foreign | None:
    """What a tensor is, where its name says that it is no part of a LoRA."""
    if not ANY_FOREIGN.search(key):
        return None
    return next((kind for kind in FOREIGN if kind.pattern.search(key)), None)


@dataclass(frozen=True)
class Slot:
    """Where a tensor belongs: `module` is "<component>.<layer as diffusers names it>", `part` is
    "down", "up" or "alpha".

    `stem` is the file's own name of the layer, `style` that of the part ("kohya", "peft", "old",
    "alpha"), `layout` what is spelt so, or the prefixes that no layout has.
    """

    module: str
    part: str
    stem: str
    style: str
    layout: str


def plain(name: str, is_text: bool) -> str:
    """A dotted name without what older files and wrapped models put into it."""
    name = unwrapped(name).replace(".processor.", ".")
    name = re.sub(r"\.to_out$", ".to_out.0", name)
    if is_text:
        name = re.sub(r"\.self_attn\.to_(q|k|v|out)(?:\.0)?$", r".self_attn.\1_proj", name)
        name = f"text_model.{name}" if name.startswith("encoder.") else name
    return name


def layout_of(prefixes: list[str], style: str, adapter: str | None, is_ldm: bool) -> str:
    """The layout that is spelt so, or the prefix that none has."""
    kind = "".join(prefixes)
    first = prefixes[0] if len(prefixes) == 1 else kind
    if first in KOHYA_PREFIXES:
        first = "lora_"
    elif first in ("text_encoder.", "text_encoder_2."):
        first = "unet."
    if adapter is None and (first, style, is_ldm) in SPELLINGS:
        return SPELLINGS[first, style, is_ldm]
    detail = f", adapter name {adapter!r}" if adapter else ""
    return f"no layout (prefix {kind!r}, {style} keys{detail})"


@lru_cache(maxsize=2**14)
def parse(key: str, layers_per_block: int = 2) -> Slot:
    """Raises ValueError that says what the tensor is, where it is no part of a LoRA on a known
    layer.
    """
    if kind := foreign(key):
        raise ValueError(kind.what)
    found = next((match for match in PART.finditer(key) if match.end() == len(key)), None)
    if found is None:
        raise ValueError("no part of a LoRA")
    style = next(name for name in STYLES if found[name])
    part = found["k"] or found["o"] or DIRECTION.get(found["p"] or found["b"], "alpha")
    stem = key[: found.start()]
    prefixes, rest = strip(stem)
    components = {PREFIXES[prefix].component for prefix in prefixes} - {""}
    if len(components) > 1:
        raise ValueError(f"its prefixes name {' and '.join(sorted(components))} at once")
    component = components.pop() if components else "unet"
    name = plain(rest if "." in rest else dotted(rest), component != "unet")
    layer = from_ldm(name, layers_per_block) if component == "unet" else name
    if not is_layer(component, layer):
        raise ValueError(
            f"{rest!r} names no linear or conv layer of a Stable Diffusion "
            f"{component.replace('_', ' ')}"
        )
    return Slot(
        f"{component}.{layer}",
        part,
        stem,
        style,
        layout_of(prefixes, style, found["adapter"], layer != name),
    )
