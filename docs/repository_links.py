"""A hook of mkdocs: what the pages link to outside docs/ joins the site under its path in the
repository.

So the same relative link works in the repository and on the site.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")
"""The path of a relative link or picture; one with a colon is an address."""


def repository_path(src_uri: str) -> str:
    """The path in the repository of a file of the site."""
    return f"docs/{src_uri}" if (ROOT / "docs" / src_uri).exists() else src_uri


def site_path(path: str) -> str:
    """The path on the site of a file of the repository."""
    return path.removeprefix("docs/")


def target(page: str, link: str) -> str:
    """Where a link on a page leads, both as paths in the repository."""
    return os.path.normpath(Path(page).parent / link)


def links(page: str) -> list[str]:
    return [target(page, link) for link in LINK.findall((ROOT / page).read_text(encoding="utf-8"))]


def on_files(files: Files, config: Any) -> Files:
    waiting = [repository_path(file.src_uri) for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        for path in links(page):
            if (ROOT / path).is_file() and files.get_file_from_path(site_path(path)) is None:
                files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
                waiting += [path] if path.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    here = repository_path(page.file.src_uri)

    def rewritten(link: re.Match[str]) -> str:
        return os.path.relpath(site_path(target(here, link[1])), Path(site_path(here)).parent)

    return LINK.sub(rewritten, markdown)
