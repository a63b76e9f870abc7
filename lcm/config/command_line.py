"""A configuration from the command line and from YAML: flags over the file over defaults."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any

import yaml

from lcm.config.plugins import load_plugins
from lcm.config.run import FIELDS, TrainConfig
from lcm.system.flags import NO, YES, Flag, default_of
from lcm.system.registry import closest

DROPPED_FLAGS = {
    "train_shards_path_or_url": (
        "webdataset for tar shards on this machine, dataset_name for a data set on the hub"
    ),
    "use_fix_crop_and_size": (
        "nothing: SDXL is told how each image was cut; center_crop cuts all alike"
    ),
    "encode_batch_size": (
        "nothing: the VAE encodes one picture at a time; cache_latents encodes each once"
    ),
    "vae_encode_batch_size": (
        "nothing: the VAE encodes one picture at a time; cache_latents encodes each once"
    ),
    "scale_lr": (
        "learning_rate: it is the rate itself, whatever the batch and the number of processes"
    ),
    "w_min": "guidance_scale_min, which is w_min + 1",
    "w_max": "guidance_scale_max, which is w_max + 1",
    "validation_prompt": "validation_prompts",
    "num_validation_images": (
        "validation_prompts (one row each) and validation_num_steps (one column each)"
    ),
    "enable_xformers_memory_efficient_attention": "nothing: PyTorch's own attention is always used",
    "local_rank": "nothing: accelerate launch sets it",
    "hub_token": (
        "`hf auth login`, or HF_TOKEN in the environment: on the command line a token "
        "ends in the shell's history"
    ),
    "cast_teacher_unet": "mixed_precision: teacher and student share one U-Net",
}
"""Flags of other training scripts and what to use here."""
KINDS: dict[str, Any] = {"int": int, "float": float, "str": str}


def switch(word: str) -> bool:
    """What the value of a flag that is on or off means."""
    if word.lower() in YES:
        return True
    if word.lower() in NO:
        return False
    raise argparse.ArgumentTypeError(f"expected true or false; got {word!r}")


def kind_of(f: Field[Any]) -> tuple[str, bool]:
    """The type of one value of a flag, and whether it takes several."""
    name = str(f.type).removesuffix(" | None")
    inner = name.removeprefix("list[").removesuffix("]")
    return inner, inner != name


def options_of(f: Field[Any]) -> dict[str, Any]:
    """What argparse is told of a flag."""
    flag: Flag = f.metadata["flag"]
    kind, is_list = kind_of(f)
    options: dict[str, Any] = {"help": flag.help_text.replace("%", "%%"), "default": default_of(f)}
    if is_list:
        return {**options, "type": KINDS[kind], "nargs": "+"}
    if kind == "bool":
        return {**options, "type": switch, "nargs": "?", "const": True}
    if flag.bare is not None:
        options |= {"nargs": "?", "const": flag.bare}
    return {**options, "type": KINDS[kind]}


def make_parser() -> argparse.ArgumentParser:
    """A parser of every flag, each also with dashes in its name."""
    parser = argparse.ArgumentParser(
        prog="train_lcm_lora.py",
        description="Distils a few-step LoRA, or U-Net, from a Stable Diffusion teacher.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for name, f in FIELDS.items():
        dashed = [f"--{name.replace('_', '-')}"] if "_" in name else []
        parser.add_argument(f"--{name}", *dashed, *f.metadata["flag"].aliases, **options_of(f))
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML file with any of these flags; flags on the command line win",
    )
    return parser


def spellings() -> dict[str, str]:
    """Every accepted key, aliases included -> the flag."""
    names = {name: name for name in FIELDS}
    for name, f in FIELDS.items():
        names |= {alias.lstrip("-"): name for alias in f.metadata["flag"].aliases}
    return names


def unknown_key(name: str, where: str) -> ValueError:
    """The error for a name that is no flag: what to use instead, or what is spelt like it."""
    if name in DROPPED_FLAGS:
        return ValueError(f"unknown {where} {name!r}: use {DROPPED_FLAGS[name]}")
    return ValueError(f"unknown {where} {name!r}.{closest(name, spellings())}")


class PlainLoader(yaml.SafeLoader):
    """Leaves every scalar but null a string, so that `no` and `0123` mean what they mean as
    flags, and `2e-5`, which PyYAML itself takes for a string, is converted as a flag is.
    """


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":null")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as defaults of the parser, which converts strings as it does on the command line.

    Raises FileNotFoundError, or ValueError for bad YAML and unknown keys.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--config: there is no file {path}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=PlainLoader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"--config: {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"--config: {path} must hold `name: value` lines")
    defaults: dict[str, Any] = {}
    for key, value in content.items():
        name = spellings().get(str(key).replace("-", "_"))
        if name is None:
            raise unknown_key(str(key).replace("-", "_"), f"key in {path}")
        if value is not None:
            defaults[name] = default_from(path, str(key), value, FIELDS[name])
    return defaults


def default_from(path: Path, key: str, value: Any, f: Field[Any]) -> Any:
    """One value of a YAML file. Raises ValueError where it does not fit its flag."""
    kind, is_list = kind_of(f)
    if is_list:
        try:
            return [KINDS[kind](item) for item in (value if isinstance(value, list) else [value])]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {key}: {error}") from error
    if isinstance(value, list | dict):
        raise ValueError(f"{path}: {key} takes one value; got {value}")
    return str(value)


def plugins_in(argv: Sequence[str] | None) -> list[str]:
    """The values of --plugin on a command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", nargs="+", default=[])
    plugins: list[str] = parser.parse_known_args(argv)[0].plugin
    return plugins


def parse_config(argv: Sequence[str] | None = None) -> TrainConfig:
    """Flags over --config file over defaults. Raises ValueError for anything unknown or
    contradictory.
    """
    load_plugins(plugins_in(argv))  # so that --help and errors name what they add
    parser = make_parser()
    known, unknown = parser.parse_known_args(argv)
    for word in unknown:
        if word.startswith("-"):
            raise unknown_key(word.lstrip("-").split("=")[0].replace("-", "_"), "flag")
        raise ValueError(f"unexpected word {word!r} on the command line; values follow a --flag")
    if known.config is not None:
        parser.set_defaults(**read_yaml(known.config))
        known = parser.parse_args(argv)
    values = vars(known)
    values.pop("config")
    return TrainConfig.of(**values)
