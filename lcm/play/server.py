"""The page and what it asks for, as an application of starlette."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcm.inference.serving import QueueFullError
from lcm.play import watching
from lcm.play.compare import Comparisons
from lcm.play.guard import Guard
from lcm.play.messages import facts
from lcm.play.settings import LARGEST, read_back
from lcm.play.studio import Studio
from lcm.play.uploads import TooLargeError, Uploads
from lcm.play.visitor import Visitor, in_words

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

WEB = Path(__file__).parent / "web"
"""The page's own files."""
MOST_VISITORS = 32
AS_A_STYLE = "style"
PLAYED_WITH = {AS_A_STYLE: None, "lcm": "LCMScheduler"}
"""What an adapter without a recipe may be, and its scheduler."""


@dataclass
class Play:
    """What the page shows: views without their part are left out. `studio` draws, `run` is the
    folder of a training under way.
    """

    uploads: Uploads
    studio: Studio | None = None
    run: Path | None = None
    visitors: set[Visitor] = field(default_factory=set)
    files: threading.Lock = field(default_factory=threading.Lock)
    """Files are looked at and attached one at a time."""
    comparisons: Comparisons | None = None

    def __post_init__(self) -> None:
        if self.studio is not None:
            self.comparisons = Comparisons(self.studio)

    def facts(self) -> dict[str, Any]:
        """What the page has to know, as JSON has it."""
        return {
            "stage": None if self.studio is None else facts(self.studio.stage),
            "run": self.run is not None,
            "folders": bool(self.uploads.folders),
            "largest": self.uploads.largest,
        }

    async def tell_all(self) -> None:
        """Tells every page what there is now."""
        told = [visitor.tell_facts() for visitor in list(self.visitors)]
        await asyncio.gather(*told, return_exceptions=True)

    def alone(self, work: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """What work on files returns, made in a thread, one at a time."""

        def locked() -> Any:
            with self.files:
                return work(*args)

        return asyncio.to_thread(locked)


STATUS: dict[type[Exception], int] = {
    TooLargeError: 413,
    QueueFullError: 503,
    FileNotFoundError: 404,
}
Handler = Callable[[Play, "Request"], Awaitable[Any]]


def create_app(play: Play, hosts: Collection[str] | None = None) -> Any:
    """The application, which answers to the names `hosts`, None for any."""
    from starlette.applications import Starlette
    from starlette.routing import Route, WebSocketRoute

    def route(path: str, handler: Handler, method: str = "GET") -> Any:
        async def answer(request: Request) -> Response:
            return await answered(handler, play, request)

        return Route(path, answer, methods=[method])

    async def live(socket: WebSocket) -> None:
        await follow(play, socket)

    routes = [
        route("/", page),
        route("/web/{name}", page),
        route("/facts", tell),
        WebSocketRoute("/live", live),
        route("/folders", folders),
        route("/drop", drop, "POST"),
        route("/pick", pick, "POST"),
        route("/mend/{key}", mend, "POST"),
        route("/attach/{key}", attach, "POST"),
        route("/remove", remove, "POST"),
        route("/file/{key}", download),
        route("/read", read, "POST"),
        route("/run", run),
        route("/run/{path:path}", grid),
    ]

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        thread = threading.Thread(target=play.studio.run) if play.studio else None
        if thread is not None:
            thread.start()
        yield
        if play.studio is not None and thread is not None:
            play.studio.close()
            thread.join()

    return Guard(Starlette(routes=routes, lifespan=lifespan), hosts)


async def answered(handler: Handler, play: Play, request: Request) -> Response:
    """The answer of a handler, JSON unless it is one already; its error in words."""
    from starlette.responses import JSONResponse, Response

    try:
        found = await handler(play, request)
    except (ValueError, OSError, RuntimeError) as error:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
        return JSONResponse({"error": in_words(error)}, status)
    return found if isinstance(found, Response) else JSONResponse(found)


async def follow(play: Play, socket: WebSocket) -> None:
    """Answers one page until it is closed."""
    from starlette.websockets import WebSocketDisconnect

    await socket.accept()
    if play.studio is None or play.comparisons is None or len(play.visitors) >= MOST_VISITORS:
        await socket.close(1013, "as many pages are open as may be")
        return
    turn = asyncio.Lock()

    async def send(message: dict[str, Any]) -> None:
        async with turn:
            await socket.send_json(message)

    visitor = Visitor(play.studio, play.comparisons, send)
    play.visitors.add(visitor)
    try:
        await visitor.tell_facts()
        while True:
            await visitor.hear(await socket.receive_text())
    except (WebSocketDisconnect, KeyError):  # KeyError: a message of bytes, which no page sends
        pass
    finally:
        play.visitors.discard(visitor)
        visitor.leave()


# --- the handlers ---------------------------------------------------------------------------------


async def page(play: Play, request: Request) -> Response:
    """The page itself, and the files that it is made of, by their names alone."""
    from starlette.responses import FileResponse

    name = request.path_params.get("name", "index.html")
    known = {path.name: path for path in WEB.iterdir()}
    if name not in known:
        raise FileNotFoundError("there is no such file of the page")
    return FileResponse(known[name], headers={"cache-control": "no-cache"})


async def tell(play: Play, request: Request) -> dict[str, Any]:
    return play.facts()


async def folders(play: Play, request: Request) -> list[str]:
    return list(await play.alone(play.uploads.listed))


async def drop(play: Play, request: Request) -> dict[str, Any]:
    check_length(request, play.uploads.largest)
    dropped = await play.uploads.receive(request.query_params.get("name", ""), request.stream())
    return await looked_at(play, dropped)


async def pick(play: Play, request: Request) -> dict[str, Any]:
    name = request.query_params.get("name", "")
    return await looked_at(play, await play.alone(play.uploads.pick, name))


async def mend(play: Play, request: Request) -> dict[str, Any]:
    return await looked_at(play, await play.alone(play.uploads.mend, request.path_params["key"]))


async def looked_at(play: Play, dropped: Any) -> dict[str, Any]:
    stage = None if play.studio is None else play.studio.stage
    found: dict[str, Any] = await play.alone(play.uploads.look, dropped, stage)
    return found


async def attach(play: Play, request: Request) -> dict[str, Any]:
    kind = request.query_params.get("kind", AS_A_STYLE)
    if play.studio is None or kind not in PLAYED_WITH:
        raise ValueError("there is no base model here, or no such kind of adapter")
    key, scheduler = request.path_params["key"], PLAYED_WITH[kind]
    loaded = await play.alone(play.uploads.attach, play.studio, key, scheduler)
    await play.tell_all()
    return {"name": loaded.name}


async def remove(play: Play, request: Request) -> dict[str, Any]:
    if play.studio is None or play.comparisons is None:
        raise ValueError("there is no base model here, and no adapter")
    name = request.query_params.get("name", "")
    await asyncio.wrap_future(play.studio.change(lambda stage: stage.remove(name)))
    play.comparisons.forget()
    await play.tell_all()
    return {"name": name}


async def download(play: Play, request: Request) -> Response:
    from starlette.responses import FileResponse

    dropped = play.uploads[request.path_params["key"]]
    if not dropped.is_ours:
        raise FileNotFoundError("this file lies in a folder of yours; take it from there")
    return FileResponse(dropped.path, filename=dropped.path.name)


async def read(play: Play, request: Request) -> dict[str, Any]:
    check_length(request, LARGEST)
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LARGEST:
            raise TooLargeError(f"the picture has more than {LARGEST >> 20} MiB")
    return read_back(bytes(content))


def check_length(request: Request, largest: int) -> None:
    """Raises TooLargeError for an upload that says itself that it is too large."""
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length[:20]) > largest:
        raise TooLargeError(f"the file has more than {largest >> 20} MiB")


async def run(play: Play, request: Request) -> dict[str, Any]:
    if play.run is None:
        raise FileNotFoundError("no run is watched; start with --run")
    known = request.query_params.get("version")
    now = await asyncio.to_thread(watching.version, play.run)
    return {"version": now} if now == known else await asyncio.to_thread(watching.shown, play.run)


async def grid(play: Play, request: Request) -> Response:
    """A grid of the run, by one of the names that are listed."""
    from starlette.responses import FileResponse

    name = request.path_params["path"]
    if play.run is None or name not in await asyncio.to_thread(watching.pictures, play.run):
        raise FileNotFoundError("the run has no such picture")
    return FileResponse(play.run / name, media_type="image/png")
