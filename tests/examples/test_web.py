"""The servers in examples/, asked as browsers and programs ask them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

import lcm
from examples import canvas, fastapi_app
from lcm.pipelines import FewStepStableDiffusionImg2ImgPipeline
from tests.support import worlds

SIDE = 16


@pytest.fixture
def app_client() -> Iterator[TestClient]:
    engine = lcm.Engine(worlds.build_sd(), max_batch=2)
    with TestClient(fastapi_app.create_app(engine)) as client:
        yield client


@pytest.fixture
def canvas_client() -> Iterator[TestClient]:
    pipe = FewStepStableDiffusionImg2ImgPipeline.from_pipe(worlds.build_sd())
    with TestClient(canvas.create_app(lcm.Engine(pipe), SIDE)) as client:
        yield client


def picture(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def data_url(size: int = 8) -> str:
    file = io.BytesIO()
    Image.new("RGB", (size, size), "red").save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def message(**changes: Any) -> dict[str, Any]:
    return {
        **{"number": 1, "prompt": "star", "strength": 0.8, "steps": 2, "seed": 0},
        **{"image": data_url()},
        **changes,
    }


def test_a_picture_follows_from_its_seed(app_client: TestClient) -> None:
    first, again, other = (
        app_client.get("/picture", params={"prompt": "star", "steps": 1, "seed": seed})
        for seed in (0, 0, 1)
    )
    assert first.headers["content-type"] == "image/png"
    assert picture(first.content).size == (SIDE, SIDE)
    assert first.content == again.content != other.content


def test_what_is_wrong_is_told_and_disturbs_nobody(app_client: TestClient) -> None:
    refused = app_client.get("/picture", params={"prompt": "star", "steps": 0})
    assert refused.status_code == 422 and "num_inference_steps" in refused.text
    assert app_client.get("/picture").status_code == 422
    assert app_client.get("/picture", params={"prompt": "star"}).status_code == 200


def test_a_full_server_says_so(app_client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastapi_app, "MOST_WAITING", 0)
    assert app_client.get("/picture", params={"prompt": "star"}).status_code == 503


def test_the_page_is_served(canvas_client: TestClient) -> None:
    assert "<canvas" in canvas_client.get("/").text


def test_every_stroke_is_answered_by_a_picture(canvas_client: TestClient) -> None:
    with canvas_client.websocket_connect("/draw") as socket:
        drawn = []
        for number, prompt in enumerate(("star", "a blue ring")):
            socket.send_json(message(number=number, prompt=prompt))
            answer = socket.receive_json()
            assert answer["number"] == number
            drawn.append(picture(base64.b64decode(answer["image"].partition(",")[2])).tobytes())
        assert drawn[0] != drawn[1]


def test_the_newest_stroke_is_drawn_and_older_ones_leave(canvas_client: TestClient) -> None:
    with canvas_client.websocket_connect("/draw") as socket:
        for number in range(20):
            socket.send_json(message(number=number, steps=8))
        answered = []
        while 19 not in answered:
            answered.append(socket.receive_json()["number"])
    assert answered == sorted(answered) and len(answered) < 20


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": "data:image/png;base64,????"}, "neither a PNG"),
        ({"image": data_url(3000)}, "more than 2048"),
        ({"steps": 0}, "num_inference_steps"),
        ({"strength": 7}, "strength"),
        ({"seed": None}, "lacks"),
    ],
)
def test_a_bad_stroke_is_answered_in_words(
    canvas_client: TestClient, changes: dict[str, Any], reason: str
) -> None:
    with canvas_client.websocket_connect("/draw") as socket:
        socket.send_json(message(**changes))
        assert reason in socket.receive_json()["error"]
        socket.send_json(message())
        assert "image" in socket.receive_json()
