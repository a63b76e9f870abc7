"""Which adapters are asked for, which of them sets the scheduler, and what they are called."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcm.adapter.files import AdapterFile
from lcm.adapter.locate import Located, check_has_recipe, look_up
from lcm.adapter.lora import adaptable, lora_modules
from lcm.adapter.names import style_name
from lcm.adapter.recipe import Recipe
from lcm.inference.judge import judge
from lcm.inference.state import adapter_names, attachment, current_recipe


@dataclass
class Entry:
    """One of the adapters asked for. `file` is None for one already loaded and for a whole
    U-Net.
    """

    source: str | os.PathLike[str]
    weight: float
    name: str
    file: AdapterFile | None
    is_unet: bool
    recipe: Recipe | None


def read_entry(pipe: Any, source: str | os.PathLike[str] | Located, weight: float) -> Entry:
    """The adapter that `source` names, its file read once. A name of a loaded adapter comes before
    a path of the same spelling.
    """
    if isinstance(source, str) and source in adapter_names(pipe):
        found = attachment(pipe)
        return Entry(
            source, weight, source, None, False, found.recipes.get(source) if found else None
        )
    try:
        at = source if isinstance(source, Located) else look_up(source)
    except FileNotFoundError as error:
        names = ", ".join(sorted(adapter_names(pipe)))
        if not names:
            raise
        raise FileNotFoundError(f"{error}; or a name of the adapters loaded: {names}") from error
    name = style_name(at.source)
    return Entry(at.source, weight, name, at.file, at.file is None, at.recipe)


def recognise(pipe: Any, entry: Entry, adapter_name: str) -> None:
    """Makes of a file that is attached already, and has not been written since, the name of the
    loaded adapter. Where the caller asks for another name it stays a file, to be loaded once more.
    """
    found = attachment(pipe)
    if found is None or entry.file is None:
        return
    loaded = adapter_names(pipe)
    for name, identity in found.files.items():
        is_asked_for = name != found.lead or adapter_name in (name, "lcm")
        if identity == entry.file.identity and name in loaded and is_asked_for:
            entry.source, entry.name, entry.file = name, name, None
            entry.recipe = found.recipes.get(name)
            return


def check_named_once(entries: list[Entry]) -> None:
    """Raises ValueError where two of them are one loaded adapter."""
    loaded = [entry.name for entry in entries if entry.file is None and not entry.is_unet]
    for name in loaded:
        if loaded.count(name) > 1:
            raise ValueError(f"the adapter {name!r} is named twice; name it once, with one weight")


def find_lead(pipe: Any, entries: list[Entry], recipe: Recipe | None) -> Entry | None:
    """The entry whose recipe sets the scheduler: the first, where the caller gives a recipe. None:
    one attached before stays.

    Raises ValueError when there are none or several.
    """
    if recipe is not None:
        return entries[0]
    with_recipe = [entry for entry in entries if entry.recipe]
    leads = [entry for entry in with_recipe if entry.weight] or with_recipe
    if len(leads) > 1:
        names = " and ".join(str(entry.source) for entry in leads)
        raise ValueError(
            f"{names} each have a recipe, and a pipeline one scheduler; give all but one the "
            "weight 0, or pass recipe="
        )
    if not leads and current_recipe(pipe) is None:
        loadable = [(entry.source, entry.file) for entry in entries if entry.file]
        if not loadable:
            raise ValueError(
                f"no recipe is known of the loaded adapter {entries[0].name!r}; pass recipe="
            )
        # a recipe would not help a file that cannot be attached at all
        judge(pipe, loadable[0][1])
        check_has_recipe(loadable[0][0], None)
    return leads[0] if leads else None


def check_names(pipe: Any, entries: list[Entry], lead: Entry | None, hotswap: bool) -> None:
    """Raises ValueError when an adapter would get a name that is taken, or when there is nothing to
    swap.
    """
    taken, found = adapter_names(pipe), attachment(pipe)
    if hotswap and (lead is None or lead.file is None):
        raise ValueError(
            "hotswap=True puts the adapter with a recipe in the place of the attached one; pass "
            "its file"
        )
    files: set[Path] = set()
    for entry in entries:
        if entry.file is None:
            continue
        if not entry.name or "." in entry.name:
            raise ValueError(
                f"adapter_name={entry.name!r} cannot name an adapter: it must not be empty or have "
                "a dot"
            )
        file = entry.file.path.resolve()
        if file in files:
            raise ValueError(f"{entry.source} is named twice; name it once, with one weight")
        files.add(file)
        if hotswap and entry is lead:
            if not found or entry.name not in found.added:
                raise ValueError(
                    f"hotswap=True: no adapter named {entry.name!r} was attached; attach the first "
                    "one without it"
                )
        elif entry.name in taken:
            raise ValueError(
                f"an adapter named {entry.name!r} is already loaded; call lcm.detach(pipe), or "
                "pass hotswap=True to put this one in its place, or another adapter_name (a style "
                "is named after its file)"
            )
        taken = taken | {entry.name}


def check_others(pipe: Any, entries: list[Entry], lead: Entry | None, hotswap: bool) -> None:
    """Raises ValueError when another adapter with a recipe would stay active beside the lead."""
    found = attachment(pipe)
    if found is None or lead is None:
        return
    named = {entry.source for entry in entries} | ({lead.name} if hotswap else set())
    for name in found.recipes.keys() - named:
        layers = [
            layer for layer in lora_modules(adaptable(pipe)["unet"]).values() if name in layer.r
        ]
        if any(name in layer.active_adapters and float(layer.scaling[name]) for layer in layers):
            raise ValueError(
                f"the adapter {name!r}, attached before, has a recipe of its own and is active; "
                "call lcm.detach(pipe) first, or name it with the weight 0: lcm.attach(pipe, "
                f"{{{name!r}: 0.0, {str(lead.source)!r}: {lead.weight}}})"
            )
