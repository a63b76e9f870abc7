"""Starting the playground: what can be refused is refused before a model is loaded."""

from __future__ import annotations

import importlib
import ipaddress
import os
import socket
import sys
import webbrowser
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lcm.adapter.locate import Located
from lcm.play.guard import LOOPBACK
from lcm.play.pictures import MOST_BYTES
from lcm.play.server import Play, create_app
from lcm.play.stage import Stage
from lcm.system.paths import is_folder

NEEDED = ("starlette", "uvicorn", "websockets")


def check_packages() -> None:
    """Raises ValueError where a package of the extra is missing."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"lcm play needs the package {name}; pip install {' '.join(NEEDED)}"
            ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_sharing(host: str, share: bool) -> None:
    """Raises ValueError unless whoever lets others in has said so twice."""
    if share and is_loopback(host):
        raise ValueError(
            "share: whoever reaches this machine could then draw, upload files and see the run; to "
            "say that this is meant, name the address too: --share --host 0.0.0.0"
        )
    if not share and not is_loopback(host):
        raise ValueError(
            f"host: at {host} whoever reaches this machine could draw, upload files and see the "
            "run; to say that this is meant, pass --share too"
        )


def names_of(host: str) -> Collection[str] | None:
    """The names under which the page may be opened; None for any."""
    return LOOPBACK if is_loopback(host) else None


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ValueError for an address that is not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        what = getattr(error, "strerror", None) or error
        raise ValueError(
            f"port: {host}:{port} is not to be had ({what}); pass another --port, 0 for any"
        ) from error


def check_folders(flag: str, folders: Sequence[Path]) -> None:
    """Raises ValueError for what is no folder."""
    for folder in folders:
        if not is_folder(folder):
            raise ValueError(f"{flag}: there is no folder {folder}; name one that is there")


def fill(
    stage: Stage, adapters: Sequence[Located], weights: Sequence[float], scheduler: str | None
) -> None:
    """Attaches the adapters. Raises ValueError for one that does not fit."""
    for at, weight in zip(adapters, weights, strict=True):
        stage.add(at, weight, scheduler)


def url_of(bound: socket.socket) -> str:
    """The address to open: of all addresses of the machine, that of the machine itself."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def open_page(url: str) -> None:
    """Opens the page where there are windows; a browser of the terminal would take it over."""
    if sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        return
    webbrowser.open(url)


def make_server(play: Play, hosts: Collection[str] | None) -> Any:
    """A server of the page, which is to `run` on sockets."""
    import uvicorn

    config = uvicorn.Config(
        create_app(play, hosts),
        log_config=None,
        access_log=False,
        server_header=False,
        ws_max_size=MOST_BYTES,
        limit_concurrency=256,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
