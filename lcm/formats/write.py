"""Writing an adapter file: it gets its name only after it was read back and compared."""

from __future__ import annotations

from pathlib import Path

import torch

from lcm.adapter.files import AdapterError, AdapterFile
from lcm.adapter.kohya import family_header
from lcm.adapter.names import OUTPUT_NAME_KEY, WEIGHTS_NAME
from lcm.adapter.recipe import RECIPE_KEY, Recipe
from lcm.formats import diffusers, kohya, peft
from lcm.formats.closeness import largest_difference
from lcm.formats.configuration import METADATA_KEY
from lcm.formats.factors import Adapter, common
from lcm.formats.programs import diffusers_takes
from lcm.formats.read import read_adapter, understand
from lcm.formats.taken import Taken
from lcm.system.lock import replacing_alone

LAYOUTS = {"kohya": kohya.write, "diffusers": diffusers.write, "peft": peft.write}
"""Layout -> what writes an adapter in it, to a file or, for "peft", to a folder. Those that are
only read: `keys.SPELLINGS`.
"""

ROUNDING = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest relative difference of a layer's delta, by the precision of the file: a few times its
rounding.
"""


def identified(adapter: Adapter, recipe: Recipe | None) -> dict[str, str]:
    """The header with what web UIs know families by, and the recipe; both where they are known."""
    header = {key: value for key, value in adapter.header.items() if key != METADATA_KEY}
    recipe = recipe or Recipe.from_header(header)
    width = adapter.text_width
    family = recipe.family if recipe else {768: "sd", 1024: "sd", 2048: "sdxl"}.get(width or 0)
    if family is not None:
        rank, alpha = common(adapter.modules.values())
        kind = (
            recipe.prediction_type if recipe else header.get("modelspec.prediction_type", "epsilon")
        )
        known = family_header(family, width or 0, kind, rank, alpha)
        numbers = {key: known.pop(key) for key in ("ss_network_dim", "ss_network_alpha")}
        header = {**known, **header, **numbers}
    return {"format": "pt", **header, **({RECIPE_KEY: recipe.to_json()} if recipe else {})}


def place(output: Path, layout: str = "kohya") -> Path:
    """Where to write: a path without the suffix of a file is a folder that gets one, but for the
    layout that is a folder.
    """
    return output if output.suffix == ".safetensors" or layout == "peft" else output / WEIGHTS_NAME


def check_free(path: Path, sources: list[Path], force: bool, sign: str = "") -> None:
    """Raises ValueError where writing `path` would destroy something that was not given up.

    `sign` is the file by which the folder that is to be written is known; "" where it is no folder.
    Any other folder stays.
    """
    if any(
        path.resolve() == source.resolve() or path.resolve() in source.resolve().parents
        for source in sources
    ):
        raise ValueError(f"{path} is the input; pass another place for the output")
    if path.exists() and not force:
        raise ValueError(f"{path} is already there; pass another place, or --force to replace it")
    if path.is_file() and sign:
        raise ValueError(f"{path} is a file, and a folder is to be written; pass another place")
    if path.is_dir() and any(path.iterdir()) and not (sign and (path / sign).is_file()):
        known = f" without {sign}" if sign else ""
        raise ValueError(
            f"{path} is a folder{known}: --force would delete all that is in it; pass another place"
        )


def in_words(taken: Taken) -> str:
    """What a program does not take, or takes wrong, in words."""
    if taken.error:
        return taken.error
    return (
        f"it leaves out {taken.missing}"
        if taken.missing
        else f"{taken.misscaled} layers with another strength"
    )


def usual_dtype(adapter: Adapter) -> torch.dtype:
    """The precision that is written where none is asked for: that of most matrices."""
    return next((dtype for dtype in adapter.dtypes if dtype in ROUNDING), torch.float32)


def lowered(adapter: Adapter, dtype: torch.dtype) -> Adapter:
    return adapter.with_modules(
        {name: factors.to(dtype) for name, factors in adapter.modules.items()}
    )


def check_written(adapter: Adapter, read: Adapter, dtype: torch.dtype) -> None:
    """Raises AdapterError unless what was `read` back is the `adapter`, rounded to `dtype`."""
    if read.problems:
        raise AdapterError(
            f"in {dtype}: {read.problems[0]}; nothing was written, pass a wider --dtype"
        )
    difference, module = largest_difference(adapter, read, ROUNDING[dtype])
    if not difference <= ROUNDING[dtype]:
        raise AdapterError(
            f"{module} differs by {difference:.1e} after rounding to {dtype}; nothing was "
            "written, pass a wider --dtype"
        )


def check_taken(read: Adapter, file: Path | dict[str, torch.Tensor], layout: str) -> None:
    """Raises AdapterError unless the stock loader takes all of the file as it is meant."""
    taken = diffusers_takes(read, file, layout)
    if taken.error or taken.misscaled or taken.count < len(read.component("unet")):
        raise AdapterError(
            f"diffusers would not load the {layout} file as it is meant ({in_words(taken)}); "
            "nothing was written"
        )


def rehearse(adapter: Adapter, dtype: torch.dtype) -> Adapter:
    """All that `save` does in the kohya layout but for the disk. Returns what would be read back.
    Raises AdapterError as `save`.
    """
    state, header = kohya.encoded(lowered(adapter, dtype))
    read = understand(AdapterFile(Path(WEIGHTS_NAME), header, state))
    check_written(adapter, read, dtype)
    check_taken(read, state, "kohya")
    return read


def save(adapter: Adapter, path: Path, dtype: torch.dtype, layout: str = "kohya") -> Adapter:
    """Writes, reads back and compares every layer's delta, and lets the stock loader take the file.
    Returns what was read.

    Raises AdapterError, with nothing written, when a value does not fit `dtype` or the file is not
    what it was made from.
    """
    put(adapter, path, dtype, layout)
    return read_adapter(path)


def put(adapter: Adapter, path: Path, dtype: torch.dtype, layout: str = "kohya") -> Adapter:
    """As `save`, but for the numbers of what was read: they stay in the file, and these are meta
    tensors.
    """
    with replacing_alone(path) as partial:
        written = lowered(adapter, dtype)
        written.header = {k: v for k, v in adapter.header.items() if k != OUTPUT_NAME_KEY}
        LAYOUTS[layout](written, partial)
        return check_file(adapter, partial, dtype, layout)


def check_file(adapter: Adapter, file: Path, dtype: torch.dtype, layout: str) -> Adapter:
    """What was read, as `put` returns it: without hold on the file, which Windows would not rename.
    Raises AdapterError as `save`.
    """
    read = read_adapter(file)
    check_written(adapter, read, dtype)
    if layout != "peft":
        check_taken(read, file, layout)
    return read.with_modules({name: f.on_meta() for name, f in read.modules.items()})
