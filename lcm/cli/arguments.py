"""Arguments that several verbs have in common."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcm.adapter.names import LARGEST_WEIGHT, path_and_weight
from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.system.flags import within
from lcm.system.words import WrongValueError, number, one_of, place, text, whole

if TYPE_CHECKING:
    import torch

    from lcm.adapter.files import AdapterFile
    from lcm.formats.factors import Adapter


LARGEST_RANK = 10_000
PRECISIONS = ("float16", "bfloat16", "float32")
DTYPES = ("auto", "fp16", "bf16", "fp32")
factor = within(number, at_least=-LARGEST_WEIGHT, at_most=LARGEST_WEIGHT)
"""Reads the weight of an adapter."""


def usable_alpha(text: str) -> float:
    value = within(number, at_least=-65504, at_most=65504)(text)  # of half precision
    if value == 0:
        raise WrongValueError("must not be 0, which switches every layer off; pass another number")
    return value


def add_input(parser: argparse.ArgumentParser, name: str = "file") -> None:
    parser.add_argument(
        name,
        type=place,
        help="an adapter: a safetensors file, a folder that holds one, or a hub id",
    )
    parser.add_argument(
        "--alpha",
        type=usable_alpha,
        help="alpha of layers that state none; default: its rank, so that the scale is 1",
    )


def add_base(parser: argparse.ArgumentParser, use: str, required: bool = False) -> None:
    parser.add_argument(
        "--base",
        type=place,
        required=required,
        help=f"diffusers folder, hub id, or single .safetensors file: {use}",
    )
    parser.add_argument(
        "--base_config",
        type=place,
        help="for a single file: a diffusers folder or hub id of the same kind of model; its "
        "weights are not read",
    )
    parser.add_argument(
        "--prediction_type",
        type=one_of(*PREDICTION_TYPES),
        choices=PREDICTION_TYPES,
        help="what the U-Net of --base predicts; default: as the model says, epsilon of a single "
        "file that says nothing",
    )
    parser.add_argument(
        "--zero_terminal_snr",
        action="store_true",
        help="--base has zero terminal SNR, where a single file does not say it",
    )


def add_adapters(parser: argparse.ArgumentParser, use: str, required: bool = False) -> None:
    parser.add_argument(
        "--adapter",
        type=place,
        nargs="+",
        action="extend",
        required=required,
        default=[],
        metavar="PATH[=WEIGHT]",
        help=f"files, output folders or hub ids{use}",
    )


def read_adapters(words: Sequence[str]) -> list[tuple[str, float]]:
    """PATH[=WEIGHT] -> (path, weight), in order. Raises ValueError for a weight that is none."""
    return [path_and_weight(word, "adapter") for word in words]


def read_weights(words: Sequence[str]) -> dict[str, float]:
    """The same as weights by path, of adapters that are mixed. Raises ValueError for a path that is
    named twice.
    """
    adapters: dict[str, float] = {}
    for name, weight in read_adapters(words):
        if name in adapters:
            raise ValueError(f"adapter: {name} is named twice; name it once, with one weight")
        adapters[name] = weight
    return adapters


def add_sizes(parser: argparse.ArgumentParser, default: str) -> None:
    """How large pictures are, and how many are drawn at a time."""
    side = within(whole, at_least=1, at_most=16384)
    parser.add_argument("--height", type=side, help=f"pixels; default: {default}")
    parser.add_argument("--width", type=side, help="likewise")
    parser.add_argument(
        "--batch_size",
        type=within(whole, at_least=1, at_most=1000),
        default=1,
        help="pictures drawn together; default: 1",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        type=one_of(*DTYPES),
        choices=DTYPES,
        default="auto",
        help="auto: fp16 on a GPU, fp32 without",
    )
    parser.add_argument(
        "--device", type=text, default="auto", help="auto: a GPU where there is one"
    )


def load_pipe(args: argparse.Namespace, dtype: torch.dtype | None = None) -> Any:
    """The stock pipeline that --base and --base_config name, in float32 unless `dtype` is given."""
    import torch

    from lcm.models.base_model import load_base, named_by
    from lcm.models.noise import Noise, set_noise
    from lcm.system.console import hide_loading_bars

    hide_loading_bars(args.base)
    with named_by(path="base"):
        pipe = load_base(args.base, base_config=args.base_config, dtype=dtype or torch.float32)
    set_noise(pipe, Noise(args.prediction_type, args.zero_terminal_snr))
    return pipe


def add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        type=one_of(*PRECISIONS),
        choices=PRECISIONS,
        help="precision to write; default: that of the input",
    )
    parser.add_argument("--force", action="store_true", help="replace what is already there")


def dtype_of(args: argparse.Namespace, source: Adapter) -> torch.dtype:
    """The precision to write: the flag's, else that of most matrices of the input."""
    import torch

    from lcm.formats.write import usual_dtype

    return getattr(torch, args.dtype) if args.dtype else usual_dtype(source)


def read(
    args: argparse.Namespace, path: str | Path, layers_per_block: int | None = None
) -> Adapter:
    """The adapter behind a path. Prints what had to be assumed. Raises AdapterError for what could
    not be understood, with the way on.
    """
    from lcm.adapter.files import AdapterFile
    from lcm.adapter.locate import find

    return read_file(args, AdapterFile.read(find(path)), layers_per_block)


def read_file(
    args: argparse.Namespace,
    file: AdapterFile,
    layers_per_block: int | None = None,
    drop: Sequence[str] = (),
) -> Adapter:
    """The same of a file that has been opened, without what `drop` names."""
    from lcm.formats.advice import check_sound
    from lcm.formats.read import understand

    adapter = understand(file, getattr(args, "alpha", None), layers_per_block, drop)
    check_sound(file, adapter.problems)
    for kind, texts in (("note", adapter.notes), ("warning", adapter.warnings)):
        for words in texts:
            print(f"{kind}: {words}")
    return adapter


def written(
    adapter: Adapter, output: Path, dtype: torch.dtype, source: AdapterFile, layout: str = "kohya"
) -> Adapter:
    """Writes what was made of `source`; returns what was read back, without its
    numbers. Raises AdapterError, with the way on, where the layout cannot say it.
    """
    from lcm.adapter.files import AdapterError
    from lcm.formats.advice import way_on
    from lcm.formats.write import put

    try:
        return put(adapter, output, dtype, layout)
    except AdapterError as error:
        raise AdapterError(f"{error}; {way_on(source)}") from error


def print_written(path: Path, adapter: Adapter) -> None:
    """Prints what was written."""
    ranks = sorted({factors.rank for factors in adapter.modules.values()})
    layout = ", ".join(adapter.layouts)
    print(
        f"{path}: {len(adapter.modules)} layers, rank {', '.join(map(str, ranks))}, {layout} "
        "layout; read back and compared"
    )
