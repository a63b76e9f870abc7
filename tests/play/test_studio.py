"""Everything that is drawn here is what the pipeline draws by itself with the same adapters."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lcm
from lcm.adapter.locate import Located, look_up
from lcm.adapter.lora import adaptable, lora_modules
from lcm.inference.serving import QueueFullError, Request
from lcm.inference.state import attachment
from lcm.play.messages import wish
from lcm.play.stage import Look, Stage
from lcm.play.studio import Studio
from tests.support.adapters import everything
from tests.support.playground import MESSAGE, drawing, make_stage
from tests.support.worlds import build_sd, build_sdxl

TIMEOUT = 60


@pytest.fixture(scope="module")
def studio(adapter: Path, guided: Path, style: Path) -> Iterator[Studio]:
    with drawing(Studio(make_stage(adapter, guided, style))) as studio:
        yield studio


def names(studio: Studio) -> list[str]:
    return list(studio.stage.adapters)


def pixels(image: Any) -> Any:
    return np.asarray(image).astype(int)


def drawn(studio: Studio, **changes: Any) -> Any:
    asked = wish(studio.stage, {**MESSAGE, **changes})
    return pixels(studio.draw(asked.look, asked.request).result(TIMEOUT))


def alone(adapters: dict[Any, float], **options: Any) -> Any:
    pipe = build_sd()
    if adapters:
        lcm.attach(pipe, adapters)
    made = pipe("star", generator=torch.Generator().manual_seed(0), **options)
    return pixels(made.images[0])


def test_a_look_draws_what_attach_draws(
    studio: Studio, adapter: Path, guided: Path, style: Path
) -> None:
    """Each after another, so that nothing of a look stays behind."""
    first, second, ink = names(studio)
    guidance = {"num_inference_steps": 2, "guidance_scale": 3.0}
    expected = [
        ({"lead": first, "weights": {first: 1.0}}, alone({adapter: 1.0}, num_inference_steps=2)),
        ({"lead": None, "weights": {}}, alone({}, **guidance)),
        ({"lead": second, "weights": {second: 0.5}}, alone({guided: 0.5}, **guidance)),
        (
            {"lead": first, "weights": {first: 1.0, ink: 0.7}},
            alone({adapter: 1.0, style: 0.7}, num_inference_steps=2),
        ),
    ]
    for changes, other in [*expected, expected[0]]:
        assert np.abs(drawn(studio, **changes) - other).max() <= 1, changes
    assert len({other.tobytes() for _, other in expected}) == len(expected)


@pytest.mark.filterwarnings("error")
def test_the_teacher_is_not_warned_of_an_adapter_that_is_off(studio: Studio) -> None:
    drawn(studio, steps=9, guidance=9.0)


def test_a_picture_begins_with_another(studio: Studio) -> None:
    first = names(studio)[0]
    message = {**MESSAGE, "view": "paint", "lead": first, "weights": {first: 1.0}}
    found = []
    for colour in ("red", "blue"):
        asked = wish(studio.stage, message, Image.new("RGB", (16, 16), colour))
        future = studio.draw(asked.look, asked.request, begins_with_picture=True)
        found.append(pixels(future.result(TIMEOUT)))
    assert (found[0] != found[1]).any()


def test_a_look_waits_for_those_before_it_and_none_is_overtaken(studio: Studio) -> None:
    first = names(studio)[0]
    looks = [Look(), Look(first, ((first, 1.0),)), Look(), Look()]
    ended: list[int] = []
    futures = []
    for number, look in enumerate(looks):
        futures.append(studio.draw(look, Request("star", number, 4 - number, 1.0)))
        futures[-1].add_done_callback(lambda _, number=number: ended.append(number))
    for future in futures:
        future.result(TIMEOUT)
    # the last two share a batch, in which the shorter one ends first
    assert ended == [0, 1, 3, 2]


def test_what_is_cancelled_leaves_and_what_is_wrong_disturbs_nobody(studio: Studio) -> None:
    many = studio.draw(Look(), Request("star", 0, 100, 1.0))
    none = studio.draw(Look("nobody", (("nobody", 1.0),)), Request("star"))
    bad = studio.draw(Look(), Request("star", 0, 0))
    good = studio.draw(Look(), Request("star", 0, 1))
    many.cancel()
    assert good.result(TIMEOUT).size == (16, 16)
    for future, reason in ((none, "nobody"), (bad, "num_inference_steps")):
        with pytest.raises((ValueError, FileNotFoundError), match=reason):
            future.result(TIMEOUT)
    with pytest.raises(CancelledError):
        many.result()


def test_a_full_queue_and_a_closed_studio_say_so(adapter: Path) -> None:
    studio = Studio(make_stage(), max_waiting=1)
    waiting: Future[Any] = studio.draw(Look(), Request("star"))
    with pytest.raises(QueueFullError, match="try again"):
        studio.draw(Look(), Request("star"))
    waiting.cancel()
    left = studio.draw(Look(), Request("star"))
    studio.close()
    assert left.cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        studio.draw(Look(), Request("star"))


def test_work_on_the_stage_has_it_to_itself(studio: Studio) -> None:
    under_way = studio.draw(Look(), Request("star", 0, 6, 1.0))
    assert studio.change(lambda stage: under_way.done()).result(TIMEOUT) is True
    with pytest.raises(ZeroDivisionError):
        studio.change(lambda stage: 1 / 0).result(TIMEOUT)
    assert threading.active_count() >= 2


@pytest.mark.parametrize("kind", ["twice", "another family", "a whole U-Net"])
def test_what_cannot_be_attached_changes_nothing(
    kind: str, adapter: Path, sdxl_adapter: Path, tmp_path: Path
) -> None:

    stage = make_stage(adapter)
    stage.put(Look())
    before = everything(stage.text)
    at = {
        "twice": look_up(adapter),
        "another family": look_up(sdxl_adapter),
        "a whole U-Net": Located(tmp_path, None),
    }[kind]
    with pytest.raises(ValueError, match=r"already|fit|made for|whole U-Net"):
        stage.add(at)
    assert everything(stage.text) == before and len(stage.adapters) == 1


@pytest.mark.filterwarnings("error:guidance_scale", "error:the pipeline's scheduler")
def test_an_adapter_that_is_removed_leaves_nothing_behind(
    adapter: Path, guided: Path, style: Path
) -> None:
    with drawing(Studio(make_stage(adapter, guided, style))) as studio:
        first, second, ink = names(studio)
        mixed = {"lead": first, "weights": {first: 1.0, ink: 0.7}}
        expected, look = drawn(studio, **mixed), Look(second, ((second, 1.0),))

        def remove(name: str) -> None:
            studio.change(lambda stage: stage.remove(name)).result(TIMEOUT)

        under_way = studio.draw(look, Request("star", 0, 6, 3.0))
        remove(second)
        assert under_way.done() and under_way.exception() is None
        assert (drawn(studio, **mixed) == expected).all() and names(studio) == [first, ink]
        with pytest.raises(ValueError, match="no adapter"):
            remove(second)
        with pytest.raises(ValueError, match="no adapter"):
            studio.draw(look, Request("star", 0, 1)).result(TIMEOUT)
        drawn(studio, lead=None, weights={})  # all are off when the next one goes
        remove(first)
        inked = drawn(studio, lead=None, weights={ink: 0.7})
        remove(ink)
        pipe = studio.stage.text
        assert attachment(pipe) is None
        assert not pipe.get_list_adapters() and not any(map(lora_modules, adaptable(pipe).values()))
        teacher = alone({}, num_inference_steps=2, guidance_scale=3.0)
        assert np.abs(drawn(studio) - teacher).max() <= 1 < np.abs(inked - teacher).max()
        again = studio.change(lambda stage: stage.add(look_up(guided))).result(TIMEOUT)
        mine = drawn(studio, lead=again.name, weights={again.name: 1.0})
        other = alone({guided: 1.0}, num_inference_steps=2, guidance_scale=3.0)
        assert again.name == second and np.abs(mine - other).max() <= 1


def test_sdxl_has_both_pipelines(sdxl_adapter: Path) -> None:

    stage = Stage(build_sdxl(), "some/xl")
    name = stage.add(look_up(sdxl_adapter)).name
    stage.put(Look(name, ((name, 1.0),)))
    assert type(stage.image).__name__ == "FewStepStableDiffusionXLImg2ImgPipeline"
    assert type(stage.image.scheduler).__name__ == "LCMScheduler"
    assert stage.image.unet is stage.text.unet
