"""A canvas in the browser: the picture follows what is painted and typed.

python -m examples.canvas --base examples/shapes/teacher --adapter examples/shapes/lcm_lora

Then open http://localhost:8000. Every stroke goes to the server through a WebSocket; only the
newest is drawn, an older one that is still under way is cancelled. All visitors share one batch.
`lcm play` has more; this is the least that does it, to be copied.

Needs `pip install -e ".[web]"`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse

import lcm
from lcm.inference.devices import choose_device, choose_dtype
from lcm.models import load_base
from lcm.play.pictures import MOST_BYTES, painted
from lcm.play.stage import image_pipeline


def request_of(message: Any, side: int) -> lcm.Request:
    """What a message of the page asks for. Raises ValueError for what the page does not send."""
    try:
        return lcm.Request(
            str(message["prompt"]),
            seed=int(message["seed"]),
            num_inference_steps=min(int(message["steps"]), 8),
            options={
                "image": painted(str(message["image"]), (side, side)),
                "strength": float(message["strength"]),
            },
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"the message lacks {error}") from error


async def follow(socket: WebSocket, engine: lcm.Engine, side: int) -> None:
    """Answers the messages of one visitor: each cancels the one before."""
    newest: Future[Any] = Future()

    async def answer(number: Any, future: Future[Any]) -> None:
        try:
            file = io.BytesIO()
            (await asyncio.wrap_future(future)).save(file, "PNG")
            image = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
            await socket.send_json({"number": number, "image": image})
        except asyncio.CancelledError:
            pass  # a newer one has come
        except (TypeError, ValueError, RuntimeError) as error:
            await socket.send_json({"number": number, "error": str(error)})

    answers: set[asyncio.Task[None]] = set()
    try:
        while True:
            try:
                message = await socket.receive_json()
                newest.cancel()
                newest = engine.submit(request_of(message, side))
            except ValueError as error:
                await socket.send_json({"error": str(error)})
                continue
            answers.add(task := asyncio.create_task(answer(message.get("number"), newest)))
            task.add_done_callback(answers.discard)
    except WebSocketDisconnect:
        newest.cancel()


def create_app(engine: lcm.Engine, side: int) -> FastAPI:
    """The page and its socket, on an engine that a thread of the application steps; `side` in
    pixels is that of the pictures.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        thread = threading.Thread(target=engine.run)
        thread.start()
        yield
        engine.close()
        thread.join()

    app = FastAPI(title="Canvas", lifespan=lifespan)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(Path(__file__).with_suffix(".html"))

    @app.websocket("/draw")
    async def draw(socket: WebSocket) -> None:
        await socket.accept()
        await follow(socket, engine, side)

    return app


def load(base: str, adapter: str) -> Any:
    """The image-to-image pipeline of a base model, with the adapter attached."""
    device = choose_device("auto")
    stock = load_base(base, dtype=choose_dtype("auto", device)).to(device)
    pipe = image_pipeline(stock)
    pipe.attach(adapter)
    return pipe


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--base", default="examples/shapes/teacher", help="diffusers folder or hub id"
    )
    parser.add_argument(
        "--adapter", default="examples/shapes/lcm_lora", help="output folder, file or hub id"
    )
    parser.add_argument("--max_batch", type=int, default=8, help="rows of the U-Net at a time")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args(argv)

    pipe = load(args.base, args.adapter)
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    app = create_app(lcm.Engine(pipe, max_batch=args.max_batch), side)
    uvicorn.run(app, host="127.0.0.1", port=args.port, ws_max_size=MOST_BYTES)


if __name__ == "__main__":
    main()
