"""The folder of one network, tokenizer or scheduler, seen through before a library reads it.

Its files are data. Libraries act on some of what stands in them: they import and download what a
configuration names, and unpickle weights. Whoever loads weights does it through `load_model`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lcm.adapter.config_types import check_types
from lcm.adapter.names import PEFT_CONFIG
from lcm.adapter.scheduler_values import NOISE, check_scheduler_values
from lcm.system.json_input import as_object, content, parse
from lcm.system.text import plain
from lcm.system.values import shown

FIX = "restore the file, or download the model again"

CONFIG, SCHEDULER_CONFIG = "config.json", "scheduler_config.json"
ACTED_ON = (
    *("auto_map", "trust_remote_code", "custom_pipelines", "quantization_config", "gguf_file"),
    *("transformers_weights", "kernel_config", "per_layer_config", "distributed_config"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
)
"""Entries for which the libraries import or download code, or open a file of another kind."""
HARMLESS = (None, False, "eager", "sdpa")
"""Values of such entries that do nothing of the kind."""
FILES = ("vocab_file", "merges_file", "tokenizer_file", "fast_tokenizer_files")
"""Entries by which a tokenizer is led to its files."""
LARGEST = 1 << 24
"""The largest number in a network's configuration; the largest that are known are the sizes of
vocabularies.
"""
LARGEST_CONFIG, LARGEST_FILE = 1 << 20, 1 << 26
"""Bytes of a configuration, and of any JSON file; the largest that are known are vocabularies of
some megabytes.
"""
MOST = 1000
"""Layers, and entries of a list."""


@contextmanager
def loading(what: str, fix: str) -> Iterator[None]:
    """Inside the block, whatever a library raises about files is one line that says what could not
    be loaded: FileNotFoundError where a file is missing or cannot be read, else ValueError.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # an odd configuration makes libraries raise anything
        kind_of = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        why = plain(error, 400).rstrip(".")
        message = f"{what} could not be loaded: {kind_of}{why}; {fix}"
        missing = isinstance(error, OSError) or "safetensors" in type(error).__module__
        raise (FileNotFoundError if missing else ValueError)(message) from error


def load_model(model_class: Any, folder: Path, **options: Any) -> Any:
    """A network, all of whose weights are in safetensors files of this folder. `options` are those
    of `from_pretrained`.

    Raises ValueError or FileNotFoundError, in one line, for what is not safe to read, damaged,
    incomplete or of another architecture.
    """
    check_component(folder, model_class.__name__)
    with loading(str(folder), FIX):
        model, found = model_class.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    for name in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(str, found.get(name, ()))):
            raise ValueError(
                f"{folder}: {len(keys)} tensors of its weight file do not fit its {CONFIG} "
                f"({name.split('_')[0]}: {plain(keys[0], 100)}); {FIX}"
            )
    return model


def check_component(folder: Path, class_name: str | None = None) -> None:
    """Raises ValueError, in one line, for a file of the folder that would make a library import,
    download or unpickle something, look elsewhere for its files, or build without an end.

    `class_name` is the class that will be loaded: another one in the configuration is refused, for
    the libraries import that too.
    """
    if (folder / PEFT_CONFIG).is_file():
        raise ValueError(
            f"{folder / PEFT_CONFIG} names another model and an adapter, which would be loaded in "
            "place of this one; take it out, or download the model again"
        )
    for path in sorted(folder.glob("*.json")):
        # diffusers writes an infinite number into the configurations of some schedulers
        most = LARGEST_CONFIG if path.name in (CONFIG, SCHEDULER_CONFIG) else LARGEST_FILE
        facts = parse(content(path, FIX, most), str(path), FIX, constants=True)
        if ".index." in path.name:
            check_shards(facts, path)
        elif path.name.endswith("config.json"):
            check_config(as_object(facts, str(path), FIX), path, class_name)


def check_config(facts: Mapping[str, Any], path: Path, class_name: str | None) -> None:
    """Raises ValueError for an entry of a configuration, at any depth, that is more than data."""
    for name, value in entries(facts):
        if name in ACTED_ON and not any(value is one or value == one for one in HARMLESS):
            raise ValueError(
                f"{path}: {name} would make libraries import or open something else; take it out, "
                "or use another model"
            )
        if name in FILES and value is not None:
            check_names(value, f"{path}: {name}")
        if path.name == CONFIG:
            check_size(name, value, path)
    stated = facts.get("_class_name", class_name)
    if path.name == SCHEDULER_CONFIG:
        check_scheduler_values(facts, str(path), FIX, NOISE)
        is_known = isinstance(stated, str) and stated.endswith("Scheduler")
    else:
        is_known = class_name is None or stated == class_name
    if not is_known and stated is not None:
        raise ValueError(f"{path}: _class_name is {shown(stated)}, not {class_name}; {FIX}")
    if class_name is not None:
        check_types(facts, path, class_name, FIX)


def entries(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All entries of an object and of those inside it, without recursion, which has an end."""
    left: list[Any] = [facts]
    while left:
        here = left.pop()
        if isinstance(here, dict):
            yield from here.items()
            left += here.values()
        elif isinstance(here, list):
            left += here


def check_size(name: str, value: Any, path: Path) -> None:
    """Raises ValueError for numbers with which building the network would not end."""
    numbers = value if isinstance(value, list) else [value]
    most = MOST if "layers" in name or "heads" in name else LARGEST
    if len(numbers) > MOST or any(isinstance(n, int | float) and abs(n) > most for n in numbers):
        raise ValueError(f"{path}: {name} is {shown(value)}, which no network has; {FIX}")


def check_names(value: Any, where: str) -> None:
    """Raises ValueError unless these are names of files in the same folder."""
    for name in value if isinstance(value, list) else [value]:
        if not isinstance(name, str) or name != Path(name).name:
            raise ValueError(
                f"{where} is {shown(name)}, not the name of a file beside it; take it out, or "
                "download the model again"
            )


def check_shards(facts: Any, path: Path) -> None:
    """Raises ValueError unless the index of weights in several files names safetensors files
    beside it.
    """
    named = facts.get("weight_map") if isinstance(facts, dict) else None
    if not isinstance(named, dict):
        raise ValueError(f"{path} has no weight_map; {FIX}")
    for name in set(map(str, named.values())):
        check_names(name, f"{path}: weight_map")
        if ".safetensors." in path.name and not name.endswith(".safetensors"):
            raise ValueError(
                f"{path}: weight_map names {shown(name)}, which is no safetensors file and is not "
                f"opened; {FIX}"
            )
