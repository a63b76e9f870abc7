"""An HTTP server that draws: the pictures of all clients share one running batch.

python -m examples.fastapi_app --base examples/shapes/teacher --adapter examples/shapes/lcm_lora
curl "localhost:8000/picture?prompt=a+red+star+on+a+navy+background&steps=4&seed=0" -o star.png

Needs `pip install -e ".[web]"`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response

import lcm
from lcm.inference.devices import choose_device, choose_dtype
from lcm.models import load_base

MOST_WAITING = 64
"""Requests under way at a time; who comes later is told to come again."""


def create_app(engine: lcm.Engine) -> FastAPI:
    """The routes, on an engine that a thread of the application steps."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        thread = threading.Thread(target=engine.run)
        thread.start()
        yield
        engine.close()  # ends `run`, and cancels what is not finished
        thread.join()

    app = FastAPI(title="Pictures in a few steps", lifespan=lifespan)
    under_way = 0

    @app.get("/picture", response_class=Response)
    async def picture(
        client: Request, prompt: str, seed: int = 0, steps: int | None = None
    ) -> Response:
        nonlocal under_way
        if under_way >= MOST_WAITING:
            raise HTTPException(503, "too many pictures are waiting; try again in a moment")
        under_way += 1
        future = engine.submit(lcm.Request(prompt, seed=seed, num_inference_steps=steps))
        drawn = asyncio.wrap_future(future)
        try:
            while not drawn.done():
                if await client.is_disconnected():
                    raise HTTPException(499, "the client has left")
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(drawn), timeout=0.2)
            image = drawn.result()
        except (TypeError, ValueError) as error:  # what is wrong with this request
            raise HTTPException(422, str(error)) from error
        finally:
            future.cancel()  # has no effect on one that is done
            under_way -= 1
        file = io.BytesIO()
        image.save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    return app


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

    device = choose_device("auto")
    pipe = load_base(args.base, dtype=choose_dtype("auto", device)).to(device)
    recipe = lcm.attach(pipe, args.adapter)
    engine = lcm.Engine(pipe, max_batch=args.max_batch, recipe=recipe)
    uvicorn.run(create_app(engine), host="127.0.0.1", port=args.port)


if __name__ == "__main__":
    main()
