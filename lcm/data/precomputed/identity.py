"""The identity of a model, by its configuration and weights and not by its name or place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lcm.system.transfers import fetched


def as_bytes(tensor: Tensor) -> Any:
    """The memory of any tensor, for hashing: numpy has no bfloat16."""
    return fetched(tensor).contiguous().flatten().view(torch.uint8).numpy()


def facts_of(config: Any) -> str:
    """A component's configuration, without where it was loaded from and by which version."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    facts = {
        name: value
        for name, value in values.items()
        if not name.startswith("_") and name != "transformers_version"
    }
    return json.dumps(facts, sort_keys=True, default=str)


def add_tensors(digest: Any, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Feeds names, types, shapes and bytes to a hash of hashlib."""
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(as_bytes(tensor))


def add_component(digest: Any, component: Any) -> None:
    """Feeds a component's configuration and every tensor of it, names, types and shapes included,
    to a hash of hashlib.
    """
    digest.update(facts_of(component.config).encode())
    add_tensors(digest, component.state_dict().items())


def identity_of(*components: Any) -> str:
    """32 hexadecimal digits of the SHA-256 of configurations and weights."""
    digest = hashlib.sha256()
    for component in components:
        add_component(digest, component)
    return digest.hexdigest()[:32]


def key_of(*facts: object) -> str:
    """32 hexadecimal digits of the SHA-256 of facts that JSON has."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
