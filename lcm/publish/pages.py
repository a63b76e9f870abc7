"""How pages are made of what others have written."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lcm.system.text import shown_lines


def page_environment(folder: Path) -> Environment:
    """The templates of a folder. All that is put into them is escaped, but for what is marked as
    markup; characters that cannot be seen are spelled out.
    """
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: shown_lines(value) if type(value) is str else value,
    )
