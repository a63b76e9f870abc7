"""One open page: it is answered with what it asked for last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from lcm.play.compare import Comparisons, grid, in_order, wishes
from lcm.play.messages import facts, wish
from lcm.play.pictures import as_png, data_url, drawn_with, painted
from lcm.play.settings import saved
from lcm.play.studio import Studio
from lcm.system.json_input import parse_object
from lcm.system.secrets import without_secrets
from lcm.system.text import plain
from lcm.system.values import whole

LONGEST_ERROR = 1000
AT_ONCE = 8
"""Pictures of one comparison that wait at a time; the next comes when one is drawn."""
VIEWS = ("draw", "paint", "compare")
FIX = "reload the page"
Send = Callable[[dict[str, Any]], Awaitable[None]]


def in_words(error: BaseException) -> str:
    """An error as a page shows it: one line."""
    return plain(without_secrets(str(error) or type(error).__name__), LONGEST_ERROR)


class Visitor:
    """Answers the messages of one page by `send`, each of which ends the answer to the one before:
    what is drawn for that one leaves the batch at the next step.
    """

    def __init__(self, studio: Studio, comparisons: Comparisons, send: Send) -> None:
        self._studio, self._comparisons, self._send = studio, comparisons, send
        self._task: asyncio.Task[None] | None = None

    def leave(self) -> None:
        """Ends what is under way for this page."""
        if self._task is not None:
            self._task.cancel()

    async def hear(self, text: str) -> None:
        """Begins the answer to a message."""
        try:
            message = parse_object(text, "the message", FIX)
            whole(0, 2**53).check(message.get("number"), "number of the message", FIX)
        except ValueError as error:
            await self._send({"error": in_words(error)})
            return
        self.leave()
        self._task = asyncio.create_task(self._answer(message))

    async def _answer(self, message: Mapping[str, Any]) -> None:
        number = message["number"]
        view = message["view"] if message.get("view") in VIEWS else None

        async def say(**facts: Any) -> None:
            await self._send({"view": view, "number": number, **facts})

        begun = time.perf_counter()
        try:
            if view == "compare":
                await self._compare(message, say)
            elif view is not None:
                await self._draw(message, say, begun)
            else:
                raise ValueError(f"view of the message is none that there is; {FIX}")
        except Exception as error:
            await say(error=in_words(error))

    async def _draw(self, message: Mapping[str, Any], say: Any, begun: float) -> None:
        stage, image = self._studio.stage, None
        if message.get("view") == "paint":
            height, width = stage.side
            image = await asyncio.to_thread(painted, str(message.get("image")), (width, height))
        asked = wish(stage, message, image)
        future = self._studio.draw(asked.look, asked.request, begins_with_picture=image is not None)
        picture = await asyncio.wrap_future(future)
        text, settings = drawn_with(stage, asked, picture.size), saved(stage, message, [asked.look])
        content = await asyncio.to_thread(as_png, picture, text, settings)
        seconds = round(time.perf_counter() - begun, 4)
        await say(image=data_url(content), seconds=seconds, note=asked.note)

    async def _compare(self, message: Mapping[str, Any], say: Any) -> None:
        stage = self._studio.stage
        asked = wishes(stage, message)
        await say(columns=[column.label for column, _ in asked])
        room = asyncio.Semaphore(min(AT_ONCE, self._studio.max_waiting))
        images: list[Any] = [None] * len(asked)

        async def one(place: int) -> None:
            try:
                async with room:  # what is cancelled here leaves the batch
                    drawn = self._comparisons.draw(*asked[place])
                    images[place] = await asyncio.wrap_future(drawn)
            except Exception as error:
                await say(column=place, error=in_words(error))
                return
            text = drawn_with(stage, asked[place][1], images[place].size)
            content = await asyncio.to_thread(as_png, images[place], text)
            await say(column=place, image=data_url(content))

        async with asyncio.TaskGroup() as group:
            for place in in_order(asked):
                group.create_task(one(place))
        if any(image is not None for image in images):
            content = await asyncio.to_thread(grid, stage, message, asked, images)
            await say(grid=data_url(content))

    async def tell_facts(self) -> None:
        """Tells the page what there is now."""
        await self._send({"stage": facts(self._studio.stage)})
