"""PEFT's configuration, in the header of an adapter file or beside it: where the strength is stated
that no tensor states.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from lcm.adapter.files import AdapterError
from lcm.adapter.names import PEFT_CONFIG, PEFT_WEIGHTS
from lcm.system.json_input import content, parse_object
from lcm.system.values import is_number

METADATA_KEY = "lora_adapter_metadata"
"""Header key under which diffusers keeps the PEFT configuration, by component."""

FIX = "export the adapter again"
LONGEST = 1000
"""Characters of a pattern."""
REPEATED_GROUP = re.compile(r"\)[*+{]|[*+}].*[*+}].*[*+}]")
"""What can make a search take for ever."""


def configurations(path: Path, header: dict[str, str]) -> dict[str, dict[str, Any]]:
    """PEFT's configuration of every component that the header, or the file beside the weights,
    describes. Raises AdapterError for what is none.
    """
    try:
        if METADATA_KEY in header:
            flat = parse_object(header[METADATA_KEY], f"{METADATA_KEY} in {path}", FIX)
            found: dict[str, dict[str, Any]] = {}
            for key, value in flat.items():
                component, _, name = key.rpartition(".")
                found.setdefault(component or "unet", {})[name] = value
            return {name: checked(config, METADATA_KEY, path) for name, config in found.items()}
        beside = path.with_name(PEFT_CONFIG)
        if path.name == PEFT_WEIGHTS and beside.exists():
            config = parse_object(content(beside, FIX), str(beside), FIX)
            return {"unet": checked(config, PEFT_CONFIG, path)}
    except AdapterError:
        raise
    except ValueError as error:
        raise AdapterError(str(error)) from error
    return {}


def checked(config: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The configuration itself. Raises ValueError for values that say no alpha."""
    where = f"{name} of {path}"
    alphas = config.get("alpha_pattern") or {}
    if not isinstance(alphas, dict):
        raise ValueError(f"{where}: alpha_pattern is no object; {FIX}")
    for pattern in alphas:
        check_pattern(pattern, where)
    for value in [*alphas.values(), config.get("lora_alpha", 1)]:
        if not is_number(value) or value == 0 or abs(value) > 1e300:
            raise ValueError(f"{where}: {value!r} is no usable alpha; {FIX}")
    return config


def check_pattern(pattern: str, where: str) -> None:
    """Raises ValueError for what is no regular expression, or one that may take for ever."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{where}: {pattern!r} names no layers ({error}); {FIX}") from error
    if len(pattern) > LONGEST or REPEATED_GROUP.search(pattern):
        raise ValueError(f"{where}: {pattern[:80]!r} is more than a name of layers; {FIX}")


def configured_alpha(config: dict[str, Any], layer: str, rank: int) -> float:
    """PEFT's rule: alpha of the layer or of all, times sqrt(rank) where the scale is alpha /
    sqrt(rank).
    """
    pattern: dict[str, float] = config.get("alpha_pattern") or {}
    alpha = float(config["lora_alpha"])
    if pattern:
        from peft.utils.other import get_pattern_key  # slow to import

        alpha = float(pattern.get(get_pattern_key(pattern.keys(), layer), alpha))
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha
