"""Pages of runs, written and read."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from lcm.adapter.recipe import Recipe, TeacherFacts
from lcm.config.run import TrainConfig
from lcm.methods.build import make_recipe
from lcm.outputs.folder import REPORT_NAME
from lcm.publish.report import write_page

VOID = {"meta", "img", "br", "hr", "link", "input", "col"}


class Page(HTMLParser):
    """Checks that every element is closed in the order it was opened; collects attributes and
    text.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> closes itself in SVG alone"
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def titles(self) -> list[str]:
        """The first words of the curves."""
        return [str(svg["aria-label"]).split()[0] for svg in self.all("svg")]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def read(folder: Path) -> Page:
    text = (folder / REPORT_NAME).read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "prefers-color-scheme: dark" in text
    page = Page(text)
    for tag, attributes in page.found:
        assert tag not in ("script", "link", "iframe", "object", "base", "form"), tag
        assert not any(name.startswith("on") for name in attributes), attributes
        if "src" in attributes:
            assert str(attributes["src"]).startswith("data:image/"), attributes["src"]
        if "href" in attributes:
            assert re.fullmatch(r"(validation|images)/[\w.-]+|#\w+", str(attributes["href"]))
            named = {str(one.get("id")) for _, one in page.found}
            assert str(attributes["href"])[0] != "#" or str(attributes["href"])[1:] in named
    assert not re.search(r"url\(|@import", text)
    return page


CONFIG = {
    "pretrained_teacher_model": "someone/teacher",
    "train_data_dir": "photos",
    "resolution": 16,
}
HOSTILE = "</li><script>alert('1')</script> & \"quoted\" <img src=x onerror=alert(2)>"


def recipe_of(config: TrainConfig) -> Recipe:
    facts = TeacherFacts("sd", 16, "epsilon", False, config.teacher.path, 16)
    return make_recipe(config.method, facts)


def write(
    folder: Path, lines: list[dict[str, Any]] | str = "", finished: bool = False, **changes: Any
) -> Page:
    """The page of a folder with these lines and whatever else it holds."""
    text = lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    config = TrainConfig.of(**{**CONFIG, **changes})
    prompts = [HOSTILE, "blue"]
    recipe, settings = recipe_of(config), config.flat()
    write_page(folder, config, settings, recipe, prompts, processes=2, finished=finished)
    return read(folder)


def line(step: int, **values: Any) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step / 10,
        "loss": 0.5,
        "lr": 1e-4,
        "seconds_per_step": 0.5,
        **values,
    }
