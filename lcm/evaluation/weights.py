"""Weights that metrics need: where they are looked for, and how they are had. Nothing is downloaded
unasked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors.torch import load_file

from lcm.evaluation.reasons import Reason
from lcm.system.paths import is_regular
from lcm.system.text import command_line, plain


class MissingError(ValueError):
    """Something that a metric needs is not on this machine; `public` says so without its paths."""

    def __init__(self, told: str, public: str) -> None:
        super().__init__(told)
        self.public = public


@dataclass(frozen=True)
class Weights:
    """Files of one model: `repo` on the hub, or one file at `url`."""

    name: str
    files: tuple[str, ...]
    repo: str | None = None
    url: str | None = None

    def places(self, folder: Path | None) -> list[Path]:
        """The folders where they are looked for: that of --metric_weights, the cache of the hub,
        that of torch.
        """
        found = [folder / self.name, folder] if folder is not None else []
        if self.repo is not None:
            cached = try_to_load_from_cache(self.repo, self.files[0])
            if isinstance(cached, str):
                found.append(Path(cached).parent)
        if self.url is not None:
            found.append(Path(torch.hub.get_dir(), "checkpoints"))
        return found

    def find(self, folder: Path | None) -> Path:
        """The folder that has all files. Raises MissingError naming the file, the places, and a
        command that brings it.
        """
        places = self.places(folder)
        for place in places:
            if all(is_regular(place / file) for file in self.files):
                return place
        best = max(places, key=self.count, default=None)
        lacking = next(file for file in self.files if best is None or not is_regular(best / file))
        looked = [str(place) for place in places]
        if self.repo is not None and not any("models--" in place for place in looked):
            looked.append(f"the cache of the hub ({self.repo})")
        kinds = [] if folder is None else ["--metric_weights"]
        kinds += [] if self.repo is None else [f"the cache of the hub ({self.repo})"]
        kinds += [] if self.url is None else [f"torch's cache (hub/checkpoints/{lacking})"]
        raise MissingError(
            f"{lacking} is not in {', '.join(looked)}; {self.advice(folder)}",
            f"{lacking} is not in {', nor in '.join(kinds)}; {self.public_advice}",
        )

    def count(self, place: Path) -> int:
        """How many of the files lie there."""
        return sum(is_regular(place / file) for file in self.files)

    def advice(self, folder: Path | None) -> str:
        """The command that brings the files, where they are looked for."""
        target = None if folder is None else folder / self.name
        if self.repo is not None:
            to = [] if target is None else ["--local-dir", str(target)]
            return f"get it with {command_line(['hf', 'download', self.repo, *self.files, *to])}"
        place = Path(torch.hub.get_dir(), "checkpoints") if target is None else target
        words = ["curl", "-L", "--create-dirs", "-o", str(place / self.files[0]), str(self.url)]
        return f"get it with {command_line(words)}"

    @property
    def public_advice(self) -> str:
        """What brings the files on any machine."""
        return f"get it from {self.url}" if self.repo is None else self.advice(None)


def identity(weights: Iterable[Weights], folder: Path | None) -> str:
    """What changes when one of the files does, without reading gigabytes: size and time."""
    parts = []
    for each in weights:
        place = each.find(folder)
        for file in each.files:
            stat = (place / file).stat()
            parts.append(f"{each.name}/{file} {stat.st_size} {stat.st_mtime_ns}")
    return "\n".join(parts)


def tensors_of(path: Path) -> dict[str, Any]:
    """The tensors in a file, which runs no code: safetensors, or what torch's loader of weights
    alone takes. Raises ValueError naming the file.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever the loaders raise for what is damaged
        raise ValueError(
            f"{path} could not be read ({plain(error, 200)}); remove it, and download it again"
        ) from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no weights; remove it, and download it again")
    return {str(name): tensor for name, tensor in content.items()}


def missing_weights(needs: Iterable[Weights], folder: Path | None) -> list[Reason]:
    """What is said of each that is not on this machine."""
    said = []
    for each in needs:
        try:
            each.find(folder)
        except MissingError as error:
            said.append(Reason(str(error), error.public))
    return said


def missing_packages(packages: Mapping[str, str]) -> list[Reason]:
    """What is said of every module that is not installed, with what installs it."""
    return [
        Reason(*2 * (f"the package {module} is not installed; pip install {package}",))
        for module, package in packages.items()
        if not is_installed(module)
    ]


def is_installed(module: str) -> bool:
    """Whether a module can be imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # it is there, and hidden
        return False
