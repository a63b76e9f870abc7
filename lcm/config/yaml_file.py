"""The flags of a run from a YAML file: `name: value` lines, and lists of plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field
from pathlib import Path
from typing import Any

import yaml

from lcm.config.names import spellings, unknown_name
from lcm.config.plugins import load_plugins
from lcm.config.run import FIELDS
from lcm.system.flags import Flag, kind_of
from lcm.system.json_input import content
from lcm.system.words import KINDS, WrongValueError, quoted

LARGEST = 1 << 18
"""Bytes of a file of flags; a thousand prompts have fewer."""
FIX = "--config takes a YAML file of `name: value` lines"
NULL = "tag:yaml.org,2002:null"
PLAIN_TAGS = {NULL, *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool"))}
"""What a value may be marked as; the rest makes objects of other kinds."""


class PlainLoader(yaml.SafeLoader):
    """Leaves every scalar but null a string, so that `no` and `0123` mean what they mean as
    flags, and `2e-5`, which PyYAML itself takes for a string, is converted as a flag is.
    """


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":null")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[str, Any]:
    """The values of a file by flag, each of its type; null leaves a flag out.

    Raises FileNotFoundError, or ValueError that names the file and the line.
    """
    names = spellings()
    found: dict[str, tuple[str, str, Any]] = {}
    for key, node in entries(path):
        where, written = f"{path}, line {key.start_mark.line + 1}", str(key.value)
        name = names.get(written.replace("-", "_"))
        if name is None:
            raise unknown_name(written.replace("-", "_"), f"key in {where}:")
        if name in found:
            first = found[name]
            raise ValueError(
                f"{where}: {quoted(written)} is set by {quoted(first[1])} already, in line "
                f"{first[0].rpartition(' ')[2]}; leave one of them out"
            )
        found[name] = where, written, value_of(where, name, node, FIELDS[name])
    if "plugin" in found:
        load_plugins(found["plugin"][2] or [])  # which may add to what the others choose from
    return {
        name: checked(where, name, value, FIELDS[name])
        for name, (where, _, value) in found.items()
        if value is not None
    }


def entries(path: Path) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """The keys and values of a file, not yet converted. Raises FileNotFoundError or ValueError."""
    if not path.exists():
        raise FileNotFoundError(f"--config: there is no file {path}")
    try:
        root = yaml.compose(content(path, FIX, LARGEST).decode("utf-8-sig"), Loader=PlainLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"--config: {path} is not UTF-8; save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"--config: {path} is not valid YAML ({line}{error.problem})") from error
    except yaml.YAMLError as error:
        raise ValueError(f"--config: {path} is not valid YAML ({error})") from error
    except RecursionError as error:
        raise ValueError(f"--config: {path} is nested too deep to be read; {FIX}") from error
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == NULL):
        return iter(())
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"--config: {path} must hold `name: value` lines")
    return iter(root.value)


def value_of(where: str, name: str, node: yaml.Node, field: Field[Any]) -> Any:
    """One value of a file, None for null. Raises ValueError where it does not fit its flag."""
    kind, is_list = kind_of(field)
    if not is_list or (isinstance(node, yaml.ScalarNode) and node.tag == NULL):
        return scalar(where, name, node, kind)
    parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    values = [scalar(where, name, part, kind) for part in parts]
    if None in values:
        raise ValueError(f"{where}: {name} has null in its list; quote it where the word is meant")
    return values


def scalar(where: str, name: str, node: yaml.Node, kind: str) -> Any:
    """One plain value, None for null. Raises ValueError for any other."""
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError(
            f"{where}: {name} takes one value, or a list of plain ones where it has "
            "several; no lists or names inside"
        )
    if node.tag not in PLAIN_TAGS:
        raise ValueError(f"{where}: {name} is marked as {quoted(node.tag)}; write a plain value")
    if node.tag == NULL:
        return None
    try:
        return KINDS[kind](node.value)
    except WrongValueError as error:
        raise ValueError(f"{where}: {name} {error}") from error


def checked(where: str, name: str, value: Any, field: Field[Any]) -> Any:
    """The value as its section will hold it. Raises ValueError that names file and line."""
    beside: Flag = field.metadata["flag"]
    try:
        return beside.checked(name, value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
