"""What `lcm play` refuses before a model is loaded, in one line, and what it serves."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from lcm.cli.main import main
from lcm.play import start
from lcm.play.guard import LOOPBACK

for needed in start.NEEDED:
    pytest.importorskip(needed)

BASE = ("--base", "examples/shapes/teacher")


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["play", *map(str, words)]) in (1, 2)
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    return line


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "base: there is nothing to draw with"),
        (("--adapter", "x"), "base: there is nothing to draw with"),
        (("--run", ".", "--adapter", "x"), "base: there is nothing to draw with"),
        ((*BASE, "--share"), "share: .* --share --host 0.0.0.0"),
        ((*BASE, "--share", "--host", "localhost"), "share: .* --share --host 0.0.0.0"),
        ((*BASE, "--host", "0.0.0.0"), "host: .* pass --share too"),
        ((*BASE, "--host", "gpu.local"), "host: .* pass --share too"),
        ((*BASE, "--run", "/no/such"), "run: there is no folder /no/such"),
        ((*BASE, "--folder", "/no/such"), "folder: there is no folder /no/such"),
        ((*BASE, "--adapter", "examples/shapes/teacher"), "pass it as --base"),
        ((*BASE, "--adapter", "/no/such"), "no adapter at /no/such"),
        ((*BASE, "--adapter", "x.ckpt"), "is a pickle"),
        ((*BASE, "--scheduler", "LCM"), "scheduler must be one of"),
        ((*BASE, "--port", "65536"), "port must lie in"),
        ((*BASE, "--max_upload", "0"), "max_upload must lie in"),
        ((*BASE, "--share", "--host", "no.such.host.invalid"), "port: .* pass another --port"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_line(
    words: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *words)
    assert pytest.raises(ValueError, match=reason).matches(ValueError(line)), line


def test_a_port_that_is_taken_and_a_package_that_is_missing_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with start.bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port} is not to be had" in refused(capsys, *BASE, "--port", port)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install starlette uvicorn websockets" in refused(capsys, *BASE)


@pytest.mark.parametrize(
    ("host", "mine", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:"),
        ("::1", True, "http://[::1]:"),
        ("0.0.0.0", False, "http://127.0.0.1:"),
    ],
)
def test_an_address_is_this_machine_alone_or_anybodys(host: str, mine: bool, url: str) -> None:
    assert start.is_loopback(host) is mine
    assert start.names_of(host) == (LOOPBACK if mine else None)
    start.check_sharing(host, share=not mine)
    try:
        bound = start.bind(host, 0)
    except ValueError:
        pytest.skip(f"this machine has no {host}")
    with bound:
        assert start.url_of(bound).startswith(url)


def test_a_run_alone_is_served_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line to the socket; the server is asked to stop as Ctrl-C asks it."""
    uvicorn = pytest.importorskip("uvicorn")
    began, opened = threading.Event(), []
    monkeypatch.setattr(start, "open_page", opened.append)
    startup = uvicorn.Server.startup

    async def stop_soon(self: Any, sockets: Any = None) -> None:
        await startup(self, sockets)
        with socket.create_connection(sockets[0].getsockname()):
            began.set()
        self.should_exit = True

    monkeypatch.setattr(uvicorn.Server, "startup", stop_soon)
    assert main(["play", "--run", str(tmp_path), "--port", "0"]) == 0
    assert began.is_set() and opened == [capsys.readouterr().out.strip()]
    assert main(["play", "--run", str(tmp_path), "--port", "0", "--no_window"]) == 0
    assert len(opened) == 1


def test_a_browser_of_the_terminal_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(start.webbrowser, "open", opened.append)
    monkeypatch.setattr(start.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    start.open_page("x")
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    start.open_page("x")
    assert opened == ["x"]
