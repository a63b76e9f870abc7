"""The flags of a run from a YAML file: `name: value` lines, and lists of plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
DEEPEST = 8
"""Lists and mappings inside one another; what means something has two."""
FIX = "--config takes a YAML file of `name: value` lines"
NULL = "tag:yaml.org,2002:null"
PLAIN_TAGS = {
    NULL,
    *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "seq", "map")),
}
"""What a value may be marked as; the rest makes objects of other kinds."""


class PlainLoader(yaml.SafeLoader):
    """Leaves every scalar but null a string, so that `no` and `0123` mean what they mean as
    flags, and `2e-5`, which PyYAML itself takes for a string, is converted as a flag is.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As SafeLoader does. Raises ComposerError where it would go deeper than any value does."""
        if self.depth > DEEPEST:
            raise yaml.composer.ComposerError(
                None, None, "it is nested too deep", self.peek_event().start_mark
            )
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":null")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[str, Any]:
    """The values of a file by flag, each of its type; null leaves a flag out.

    Raises FileNotFoundError, or ValueError that names the file and the line.
    """
    names = spellings()
    found: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key, node in entries(path):
        line = key.start_mark.line + 1
        where = f"{path}, line {line}"
        name = named(key, where, names)
        if name in found:
            raise ValueError(
                f"{where}: {name} is set in line {lines[name]} already; leave one of the two out"
            )
        found[name], lines[name] = value_of(where, name, node, FIELDS[name]), line
    load_plugins(found.get("plugin") or [])  # which may add to what the others choose from
    return {
        name: checked(f"{path}, line {lines[name]}", name, value, FIELDS[name])
        for name, value in found.items()
        if value is not None
    }


def entries(path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
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
        reason = " ".join(str(error).split())
        raise ValueError(f"--config: {path} is not valid YAML ({reason})") from error
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == NULL):
        return []
    if not isinstance(root, yaml.MappingNode) or root.tag not in PLAIN_TAGS:
        raise ValueError(f"--config: {path} must hold `name: value` lines")
    pairs: list[tuple[yaml.Node, yaml.Node]] = root.value
    return pairs


def named(key: yaml.Node, where: str, names: Mapping[str, str]) -> str:
    """The flag that a key names. Raises ValueError for another key."""
    if not isinstance(key, yaml.ScalarNode):
        raise ValueError(f"{where}: a list or mapping is no name of a flag; {FIX}")
    written = key.value.replace("-", "_")
    if written not in names:
        raise unknown_name(written, f"key in {where}:")
    return names[written]


def value_of(where: str, name: str, node: yaml.Node, field: Field[Any]) -> Any:
    """One value of a file, None for null. Raises ValueError where it does not fit its flag."""
    kind, is_list = kind_of(field)
    if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN_TAGS:
        raise ValueError(f"{where}: {name} is marked as {quoted(node.tag)}; write it without")
    if not is_list or not isinstance(node, yaml.SequenceNode):
        if not isinstance(node, yaml.ScalarNode):
            several = " or a list of values" if is_list else ""
            raise ValueError(f"{where}: {name} takes one value{several}")
        value = scalar(where, name, node, kind)
        return [value] if is_list and value is not None else value
    values = [scalar(where, name, part, kind) for part in node.value]
    if None in values:
        raise ValueError(f"{where}: {name} has null in its list; quote it where the word is meant")
    return values


def scalar(where: str, name: str, node: yaml.Node, kind: str) -> Any:
    """One plain value, None for null. Raises ValueError for any other."""
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError(f"{where}: {name} takes plain values, no list or mapping inside its list")
    if node.tag not in PLAIN_TAGS:
        raise ValueError(f"{where}: {name} is marked as {quoted(node.tag)}; write it without")
    if node.tag == NULL:
        return None
    is_special = kind == "float" and re.fullmatch(r"[-+]?\.(inf|nan)", node.value, re.IGNORECASE)
    try:
        return KINDS[kind](node.value.replace(".", "") if is_special else node.value)
    except WrongValueError as error:
        raise ValueError(f"{where}: {name} {error}") from error


def checked(where: str, name: str, value: Any, field: Field[Any]) -> Any:
    """The value as its section will hold it. Raises ValueError that names file and line."""
    beside: Flag = field.metadata["flag"]
    try:
        return beside.checked(name, value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
