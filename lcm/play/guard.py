"""Who may ask: pages of this server alone. A page of somebody else, open in the same browser, could
otherwise send messages here, or make its own name lead to this machine.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' data: blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def host_of(address: str) -> str:
    """The host in a Host header, without its port; "" for what is none."""
    try:
        return (urlsplit(f"//{address}").hostname or "").lower()
    except ValueError:
        return ""


def fault(headers: dict[str, str], hosts: Collection[str] | None, is_read: bool) -> str | None:
    """What is wrong with a request, in words; None for nothing. `hosts` are the names that this
    server answers to, None for any; who only reads a page needs no origin.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    if hosts is not None and host_of(host) not in hosts:
        return (
            f"this server answers to {', '.join(sorted(hosts))}; open it under one of these names, "
            "or start it with --host and --share"
        )
    if origin is None:
        return None if is_read else "the request does not say which page it comes from"
    try:
        ours = urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        ours = False
    return None if ours else "the request comes from another page"


class Guard:
    """Goes before an ASGI application."""

    def __init__(self, app: Any, hosts: Collection[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        is_read = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        wrong = fault(headers, self.hosts, is_read)
        if wrong is None:
            await self.app(scope, receive, with_headers(send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": wrong[:120]})
        else:
            kind = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": kind})
            await send({"type": "http.response.body", "body": f"{wrong}\n".encode()})


def with_headers(send: Any) -> Any:
    """Sends as `send` does, with `HEADERS` on every answer."""

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *ours]}
        await send(message)

    return sending
