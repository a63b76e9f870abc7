"""The page in a real browser, by hand as it were: one server, one browser for all tests."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lcm.play import start
from lcm.play.guard import LOOPBACK
from lcm.play.server import Play
from lcm.play.settings import read_back
from lcm.play.studio import Studio
from lcm.play.uploads import Uploads
from tests.support.browser import TIMEOUT, chromium, until
from tests.support.playground import make_stage

for needed in start.NEEDED:
    pytest.importorskip(needed)

IS_NEW = """([id, old]) => { const image = document.getElementById(id);
    return image.src !== old && image.complete && image.naturalWidth > 0 }"""
IS_DRAWN = "([source]) => document.getElementById('drawn').src === source"
IS_WITHOUT = """([name]) =>
    !atob(document.getElementById('save').href.split(',')[1]).includes(`"${name}"`)"""
IS_SAID = "([id, text]) => { const it = document.getElementById(id); \
    return (it.value ?? it.textContent).includes(text) }"


@dataclass
class Site:
    """A playground that can be stopped and started again at the same address."""

    stage: Any
    folder: Path
    run: Path
    port: int = 0
    bound: Any = None
    server: Any = None
    thread: Any = None
    problems: list[str] = field(default_factory=list)
    """What pages log, and whatever they ask of other servers."""

    def start(self) -> None:
        self.bound = start.bind("127.0.0.1", self.port)
        self.port = self.bound.getsockname()[1]
        play = Play(Uploads(self.folder), Studio(self.stage), self.run)
        self.server = start.make_server(play, LOOPBACK)
        self.thread = threading.Thread(target=self.server.run, args=([self.bound],))
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.bound.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def watch(self, page: Any) -> None:
        page.set_default_timeout(TIMEOUT)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.foreign(request.url))

    def foreign(self, url: str) -> None:
        if not url.startswith((self.url, self.url.replace("http", "ws"), "data:", "blob:")):
            self.problems.append(url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(
    browser: Any, adapter: Path, guided: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    run = tmp_path_factory.mktemp("run")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n')
    site = Site(make_stage(adapter, guided), tmp_path_factory.mktemp("uploads"), run)
    site.start()
    yield site
    site.stop()


@pytest.fixture(scope="module")
def page(site: Site, browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    site.watch(page)
    page.goto(site.url)
    new_picture(page, "drawn", None)
    yield page
    page.close()


def new_picture(page: Any, name: str, old: str | None) -> str:
    """The picture of an image once it is another one than the `old`."""
    until(page, IS_NEW, name, old or "")
    return str(page.eval_on_selector(f"#{name}", "image => image.src"))


def test_the_picture_follows_what_is_typed_and_the_same_words_give_the_same_picture(
    page: Any, site: Site
) -> None:
    page.click("#tab-draw")
    page.fill("#prompt", "red")
    first = new_picture(page, "drawn", new_picture(page, "drawn", None))
    page.press("#prompt", "End")
    page.keyboard.type(" star")
    other = new_picture(page, "drawn", first)
    page.fill("#prompt", "red")
    until(page, IS_DRAWN, first)
    assert first != other
    page.evaluate("document.getElementById('lead').selectedIndex = 1")
    page.dispatch_event("#lead", "input", {"bubbles": True})
    assert new_picture(page, "drawn", first) and page.is_visible("#guidance")
    page.evaluate("document.getElementById('lead').selectedIndex = 0")
    page.dispatch_event("#lead", "input", {"bubbles": True})
    assert page.is_hidden("#guidance")
    until(page, IS_DRAWN, first)
    assert site.problems == []


def saved(page: Any, link: str, file: Path) -> str:
    """Writes what a link saves; returns its address."""
    address = str(page.get_attribute(link, "href"))
    file.write_bytes(base64.b64decode(address.partition(",")[2]))
    return address


def test_a_comparison_is_drawn_saved_and_read_back(page: Any, tmp_path: Path) -> None:
    page.focus("#tab-draw")
    page.keyboard.press("ArrowRight")  # by the keyboard alone
    page.fill("#prompt", "blue ring")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#save-grid:not([hidden])")
    assert page.locator("#strip img").count() == 10  # teacher at 40 and 4, two adapters at 4 each
    file = tmp_path / "grid.png"
    address = saved(page, "#save-grid", file)
    assert read_back(file.read_bytes())["prompt"] == "blue ring"
    page.fill("#prompt", "something else")
    page.set_input_files("#settings", file)
    until(page, IS_SAID, "prompt", "blue ring")
    page.wait_for_selector("#save-grid:not([hidden])")
    assert page.get_attribute("#save-grid", "href") == address


def test_another_picture_ends_a_comparison_and_the_next_one_can_begin(page: Any) -> None:
    page.click("#tab-compare")
    page.click("#begin")
    page.wait_for_selector("#strip figure")
    assert page.is_disabled("#begin")
    page.click("#tab-draw")
    before = page.get_attribute("#drawn", "src")
    page.fill("#prompt", "another picture")
    new_picture(page, "drawn", before)
    page.click("#tab-compare")
    assert page.is_enabled("#begin")
    page.click("#begin")
    page.wait_for_selector("#save-grid:not([hidden])")


def test_the_picture_follows_the_brush(page: Any) -> None:
    page.click("#tab-paint")
    before = new_picture(page, "painted", None)
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 120, steps=4)
    page.mouse.up()
    painted = new_picture(page, "painted", before)
    page.focus("#canvas")
    for key in ("ArrowDown", "ArrowDown", " "):
        page.keyboard.press(key)
    assert new_picture(page, "painted", painted)


def test_saved_pictures_are_drawn_again_in_the_view_that_they_come_from(
    page: Any, tmp_path: Path
) -> None:
    """The brush has been over the canvas; the lead and the strength are others meanwhile."""
    files = {"painted": tmp_path / "painted.png", "drawn": tmp_path / "drawn.png"}
    painted = saved(page, "#save-painted", files["painted"])
    strength = page.input_value("#strength")
    page.fill("#strength", "1")
    page.click("#clear")
    page.click("#tab-draw")
    before = new_picture(page, "drawn", None)
    page.fill("#prompt", "a navy star")
    before = new_picture(page, "drawn", before)
    page.fill("#steps", "3")
    new_picture(page, "drawn", before)
    drawn = saved(page, "#save", files["drawn"])
    page.evaluate("document.getElementById('lead').selectedIndex = 2")  # the teacher
    page.dispatch_event("#lead", "input", {"bubbles": True})
    page.evaluate("document.getElementById('painted').src = ''")  # it still shows what was saved
    page.set_input_files("#settings", files["painted"])
    until(page, "([source]) => document.getElementById('painted').src === source", painted)
    assert page.is_visible("#canvas") and page.input_value("#strength") == strength
    page.set_input_files("#settings", files["drawn"])
    until(page, IS_DRAWN, drawn)
    assert page.is_visible("#drawn") and page.input_value("#prompt") == "a navy star"
    assert page.is_hidden("#missing")


def test_a_good_file_is_attached_and_a_bad_one_is_repaired(
    page: Any, style: Path, broken: Path, tmp_path: Path
) -> None:
    page.click("#tab-files")
    bad = tmp_path / "notes.ckpt"
    bad.write_bytes(b"x")
    page.set_input_files("#file", bad)
    until(page, IS_SAID, "said", "pickle")
    page.set_input_files("#file", broken)
    page.wait_for_selector("#mend:not([hidden])")
    assert page.is_hidden("#attach")
    page.click("#mend")
    page.wait_for_selector("#mended:not([hidden])")
    assert page.is_visible("#attach-lcm")
    page.set_input_files("#file", style)
    until(page, IS_SAID, "file-name", "ink.safetensors")
    page.click("#attach")
    page.wait_for_selector("#style-ink", state="attached")
    page.click("#tab-draw")
    before = new_picture(page, "drawn", None)
    page.fill("#style-ink", "2")
    new_picture(page, "drawn", before)
    saved(page, "#save", tmp_path / "inked.png")
    page.focus("#style-ink + output + button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#style-ink", state="detached")
    until(page, IS_WITHOUT, "ink")
    assert page.evaluate("document.activeElement.id") == "lead"
    page.set_input_files("#settings", tmp_path / "inked.png")
    until(page, IS_SAID, "missing", "drawn with ink, which is not here")


def test_a_run_is_watched(page: Any, site: Site) -> None:
    page.click("#tab-run")
    page.wait_for_selector("#charts svg")
    with (site.run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 0.125}\n')
    until(page, IS_SAID, "run-state", "3 updates")


def test_two_tabs_draw_and_a_closed_one_leaves(page: Any, site: Site, browser: Any) -> None:
    page.click("#tab-draw")
    other = browser.new_page(viewport={"width": 360, "height": 700}, color_scheme="dark")
    site.watch(other)
    other.goto(site.url)
    theirs = new_picture(other, "drawn", None)
    assert other.evaluate("document.documentElement.scrollWidth") <= 360
    back = other.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back != page.evaluate("getComputedStyle(document.body).backgroundColor")
    mine = new_picture(page, "drawn", None)
    page.fill("#seed", "5")
    new_picture(page, "drawn", mine)
    assert other.eval_on_selector("#drawn", "image => image.src") == theirs
    other.close()


def test_a_page_finds_the_server_again(page: Any, site: Site) -> None:
    page.click("#tab-draw")
    page.fill("#prompt", "a ring")
    before = new_picture(page, "drawn", None)
    kept = page.input_value("#seed")
    site.stop()
    until(page, IS_SAID, "said", "no server")
    site.start()
    # without being touched
    until(page, IS_SAID, "said", "ms")
    page.fill("#prompt", "a star")
    assert new_picture(page, "drawn", before)
    page.reload()
    new_picture(page, "drawn", None)
    assert (page.input_value("#prompt"), page.input_value("#seed")) == ("a star", kept)
