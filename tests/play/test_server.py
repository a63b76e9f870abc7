"""The application, asked as its page asks it, and as no page would."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcm.play import server
from lcm.play.guard import LOOPBACK
from lcm.play.server import WEB, Play, create_app
from lcm.play.studio import Studio
from lcm.play.uploads import Uploads
from lcm.play.watching import pictures
from tests.support.pages import Page
from tests.support.playground import MESSAGE, make_stage

testclient = pytest.importorskip("starlette.testclient")
ORIGIN = "http://localhost"
OURS = {"origin": ORIGIN}
LARGEST = 1 << 20


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "validation").mkdir()
    picture = (images / "0.png").read_bytes()
    for name in ("step-000002.png", "step-000010.png", "teacher.safetensors"):
        (folder / "validation" / name).write_bytes(picture)
    (folder / "validation" / "step-000003.png").symlink_to(images / "0.png")
    lines = '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": NaN}\n{"step": 3, "loss": 0.25}\n{"st'
    (folder / "metrics.jsonl").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def client(
    adapter: Path, style: Path, run_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    uploads = Uploads(tmp_path_factory.mktemp("uploads"), [style.parent], LARGEST)
    play = Play(uploads, Studio(make_stage(adapter)), run_folder)
    with testclient.TestClient(create_app(play, LOOPBACK), base_url=ORIGIN) as client:
        yield client


def connected(client: Any) -> Any:
    return client.websocket_connect("/live", headers={**OURS, "host": "localhost"})


def message(**changes: Any) -> dict[str, Any]:
    return {**MESSAGE, **changes}


def answers(socket: Any, number: int) -> Any:
    """The first answer to the question of this number."""
    while True:
        found = socket.receive_json()
        if found.get("number") == number:
            return found


def test_the_page_and_its_parts_are_whole_and_ask_nobody_else(client: Any) -> None:
    text = client.get("/").text
    page = Page(text)
    identities = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(identities) == len(set(identities))
    labelled = {attributes.get("for") for tag, attributes in page.found if tag == "label"}
    for tag, attributes in page.found:
        for name in ("src", "href"):
            if address := attributes.get(name):
                assert address.startswith("/web/") and client.get(address).status_code == 200
        if tag in ("input", "select", "textarea") and attributes.get("id") in labelled:
            labelled.discard(attributes["id"])
    assert labelled <= {None}, "labels of nothing"
    assert not any(re.search(r"https?://\w", path.read_text()) for path in WEB.glob("*.[jc]s*"))


@pytest.mark.parametrize(
    "path",
    [
        *("/web/../server.py", "/web/%2e%2e%2fserver.py", "/web/..%5cserver.py", "/web/"),
        *("/run/metrics.jsonl", "/run/validation/teacher.safetensors"),
        *("/run/validation/../metrics.jsonl", "/run/%2e%2e/x.png", "/run//etc/passwd"),
        *("/run/validation/step-000003.png", "/file/x", "/file/..%2f..%2fetc%2fpasswd"),
    ],
)
def test_no_address_leads_out(path: str, client: Any) -> None:
    assert client.get(path).status_code == 404


ASKED = ("/drop?name=x.safetensors", "/pick?name=x", "/read", "/mend/x", "/remove?name=ink")


@pytest.mark.parametrize("path", ASKED)
def test_other_pages_cannot_ask(path: str, client: Any) -> None:
    for headers in ({}, {"origin": "http://evil.example"}, {**OURS, "host": "evil.example"}):
        assert client.post(path, headers=headers, content=b"x").status_code == 403
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    with (
        pytest.raises(testclient.WebSocketDisconnect),
        client.websocket_connect("/live", headers={"origin": "http://evil.example"}),
    ):
        pass


def test_every_answer_forbids_what_the_page_does_not_need(client: Any) -> None:
    for path in ("/", "/facts", "/run/validation/step-000002.png"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_two_pages_are_drawn_for_and_told_of_what_is_new(client: Any, style: Path) -> None:
    with connected(client) as one, connected(client) as other:
        for socket in (one, other):
            assert len(socket.receive_json()["stage"]["adapters"]) == 1
        for number, socket in enumerate((one, other), start=1):
            socket.send_json(message(number=number, seed=number))
        pictures = [answers(socket, n)["image"] for n, socket in enumerate((one, other), 1)]
        assert pictures[0] != pictures[1]
        found = client.post("/pick", params={"name": "1: ink.safetensors"}, headers=OURS).json()
        assert found["fits"] and not found["has_recipe"]
        attached = client.post(f"/attach/{found['key']}", params={"kind": "style"}, headers=OURS)
        assert attached.json() == {"name": "ink"}
        for socket in (one, other):
            assert socket.receive_json()["stage"]["adapters"][1]["name"] == "ink"
        for status in (200, 400):
            removed = client.post("/remove", params={"name": "ink"}, headers=OURS)
            assert removed.status_code == status
        assert "no adapter 'ink'" in removed.json()["error"]
        for socket in (one, other):
            assert len(socket.receive_json()["stage"]["adapters"]) == 1
            socket.send_json(message(number=7, steps=1))
            assert "image" in answers(socket, 7)
    assert client.get(f"/file/{found['key']}").status_code == 404  # it is not ours to give


@pytest.mark.parametrize("view", ["draw", "paint"])
def test_a_saved_picture_is_drawn_again_to_the_pixel(view: str, client: Any) -> None:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 90).convert("RGB").save(file, "JPEG")
    began = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    asked = message(view=view, prompt="ring", seed=8, steps=3, strength=0.8, image=began)
    with connected(client) as socket:
        lead = socket.receive_json()["stage"]["adapters"][0]["name"]
        socket.send_json({**asked, "lead": lead, "weights": {lead: 0.9}})
        image = answers(socket, 1)["image"]
        content = base64.b64decode(image.partition(",")[2])
        found = client.post("/read", headers=OURS, content=content).json()
        socket.send_json({**message(), "number": 2, **found})
        assert answers(socket, 2)["image"] == image


def test_a_newer_question_ends_the_answer_to_the_one_before(client: Any) -> None:
    with connected(client) as socket:
        socket.receive_json()
        for number in range(12):
            socket.send_json(message(number=number, steps=40))
        socket.send_json(message(number=99, steps=1))
        seen = []
        while 99 not in seen:
            seen.append(socket.receive_json()["number"])
        assert seen == sorted(seen) and len(seen) < 6


def test_a_comparison_has_more_pictures_than_may_wait(adapter: Path, tmp_path: Path) -> None:
    play = Play(Uploads(tmp_path), Studio(make_stage(adapter), max_waiting=2))
    app = create_app(play, LOOPBACK)
    with (
        testclient.TestClient(app, base_url=ORIGIN) as client,
        connected(client) as socket,
    ):
        socket.receive_json()
        socket.send_json(message(view="compare"))
        columns, *pictures, grid = [answers(socket, 1) for _ in range(8)]
    assert len(columns["columns"]) == len(pictures) == 6 and "grid" in grid
    assert all("image" in picture for picture in pictures)
    # the teacher comes last, whatever waits
    assert sorted(picture["column"] for picture in pictures[-2:]) == [0, 1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "JSON"),
        ("[]", "JSON object"),
        ("[" * 100_000, "nested|JSON"),
        ('{"number": -1}', "number"),
        ('{"number": 1}', "view"),
        ('{"number": 1, "view": ["draw"]}', "view"),
        (r'{"number": 1, "view": "\ud800"}', "view"),
        ('{"number": 1, "view": "paint", "image": "x"}', "picture"),
        ('{"number": 1, "view": "compare", "weights": 1}', "weights"),
    ],
)
def test_what_no_page_sends_is_answered_in_words(text: str, reason: str, client: Any) -> None:
    with connected(client) as socket:
        socket.receive_json()
        socket.send_text(text)
        assert re.search(reason, socket.receive_json()["error"])
        socket.send_json(message(number=5, steps=1))
        assert "image" in answers(socket, 5)


def test_uploads_are_looked_at_and_their_errors_have_a_status(client: Any, broken: Path) -> None:
    def drop(name: str, content: bytes) -> Any:
        return client.post("/drop", params={"name": name}, headers=OURS, content=content)

    assert drop("x.ckpt", b"x").status_code == 400
    large = drop("x.safetensors", b"x" * (LARGEST + 1))
    assert large.status_code == 413 and "1 MiB" in large.json()["error"]
    found = drop("x.safetensors", broken.read_bytes()).json()
    mended = client.post(f"/mend/{found['key']}", headers=OURS).json()
    assert mended["fits"] and not mended["can_be_mended"]
    saved = client.get(f"/file/{mended['key']}")
    assert saved.status_code == 200 and "attachment" in saved.headers["content-disposition"]
    assert client.post("/attach/nothing", headers=OURS).status_code == 404
    assert client.post("/attach/x", params={"kind": "x"}, headers=OURS).status_code == 400
    assert client.post("/read", headers=OURS, content=b"x").json()["error"].startswith("the pic")


def test_a_run_is_shown_and_sent_again_when_it_has_changed(client: Any, run_folder: Path) -> None:
    found = client.get("/run").json()
    names = [entry["path"] for entry in found["pictures"]]
    assert names == ["validation/step-000002.png", "validation/step-000010.png"]
    assert [entry["label"] for entry in found["pictures"]] == ["step 2", "step 10"]
    assert found["step"] == 3 and found["charts"][0]["title"] == "loss"
    assert "nan" not in found["charts"][0]["svg"]
    assert client.get(f"/run/{names[0]}").headers["content-type"] == "image/png"
    again = client.get("/run", params={"version": found["version"]}).json()
    assert again == {"version": found["version"]}
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 4, "loss": 0.125}\n')
    assert client.get("/run", params={"version": found["version"]}).json()["step"] == 4


def test_without_a_base_files_and_runs_are_there_alone(run_folder: Path, tmp_path: Path) -> None:
    play = Play(Uploads(tmp_path), None, run_folder)
    with testclient.TestClient(create_app(play, LOOPBACK), base_url=ORIGIN) as client:
        assert client.get("/facts").json()["stage"] is None
        assert client.get("/run").json()["step"] >= 3
        for path in ("/attach/x", "/remove?name=x"):
            assert client.post(path, headers=OURS).status_code == 400
        assert pictures(run_folder / "nothing") == []
        with pytest.raises(testclient.WebSocketDisconnect), connected(client) as socket:
            socket.receive_json()


def test_no_more_pages_than_may_be_open(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_VISITORS", 0)
    with pytest.raises(testclient.WebSocketDisconnect), connected(client) as socket:
        socket.receive_json()
