"""`lcm evaluate`, whole: what it draws, measures and writes, that it goes on where it ended, and
what it says where something is wrong.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lcm.adapter.locate import look_up
from lcm.evaluation.drawings import Drawings
from lcm.evaluation.evaluation import CARD_NAME, JSON_NAME, PAGE_NAME
from lcm.evaluation.metric import Metric, constant
from lcm.evaluation.metrics import METRICS
from lcm.evaluation.plan import Plan
from lcm.evaluation.sampling import draw_all, prepare_drawings
from lcm.evaluation.subjects import make_subjects, names_of
from lcm.evaluation.weights import is_installed
from lcm.system.processes import Team
from tests.support.adapters import make_recipe, write_adapter
from tests.support.drawings import pixels, stock
from tests.support.evaluations import evaluate, write_clip, write_dino
from tests.support.worlds import build_sd, write_images

PROMPTS = ["a red star", "<b>blue</b> | `x`", "green \x1b[31m", "a circle", "two", "six"]
OF_LATENTS = ["nmse", "teacher_steps", "diversity", "color_shift", "contrast", "seconds"]
OTHERS = ["unet_calls", "peak_memory", "clip_score", "vendi", "hpsv2"]
SETS = ["fd_dinov2", "kid_dinov2", "coverage"] if is_installed("torch_fidelity") else []


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that adds no noise on the way, and does nothing."""
    recipe = make_recipe(scheduler="TCDScheduler", objective="tcd")
    return write_adapter(
        tmp_path_factory.mktemp("other"), build_sd, recipe, scale=0.0, targets=["to_q"]
    )


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, adapter: Path, other: Path) -> list[Any]:
    """What all of these are asked with but the base and the output."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "p.jsonl").write_text("\n".join(json.dumps({"prompt": p}) for p in PROMPTS))
    write_clip(folder / "weights" / "clip-vit-large-patch14")
    write_dino(folder / "weights" / "dinov2-large")
    real = write_images(folder / "real", 7)
    return [
        *("--adapter", adapter, f"{other}=0.5", "--steps", 1, 2, "--teacher_steps", 4),
        *("--prompts", folder / "p.jsonl", "--batch_size", 6, "--seeds", 0, 3),
        *("--metric_weights", folder / "weights", "--metrics", *OF_LATENTS, *OTHERS, *SETS),
        *(("--reference_dir", real) if SETS else ()),
    ]


@pytest.fixture(scope="module")
def done(sd_folder: Path, words: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluated") / "out"
    assert evaluate(sd_folder, output, *words) == 0
    return output


def content_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / JSON_NAME).read_text())
    return found


def result(content: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    wanted = {"reference": "teacher", **wanted}
    (found,) = [
        each
        for each in content["results"]
        if all(each[name] == value for name, value in wanted.items())
    ]
    return found  # type: ignore[no-any-return]


def test_every_number_says_what_it_is_made_of(done: Path, adapter: Path, other: Path) -> None:
    content = content_of(done)
    assert set(content["metrics"]) == {*OF_LATENTS, *OTHERS, *SETS} - {"hpsv2"}
    assert "HPS_v2.1_compressed.pt is not in" in content["left_out"]["hpsv2"]
    first, second = (each["name"] for each in content["adapters"])
    assert (first, second) == tuple(names_of([(str(adapter), 1.0), (str(other), 0.5)]))
    assert [each["adds_noise_in"] for each in content["adapters"]] == [[2], []]
    assert content["prompts"]["count"] == 6 and content["seeds"] == [0, 3]
    assert content["teacher"]["guidance_scale"] == 7.5
    published = [(done / name).read_text() for name in (JSON_NAME, PAGE_NAME, CARD_NAME)]
    assert not any(str(done.parent.parent) in text for text in published)  # no path of this machine
    assert all("Cost of a picture, in calls of 6 pictures" in text for text in published[1:])
    cost = result(content, subject=first, steps=1, metric="peak_memory")
    assert cost["details"]["batch_size"] == 6
    # one TCD step of a student that does nothing, guided by nothing, is not the teacher in 4
    nmse = result(content, subject=second, steps=2, metric="nmse")
    assert nmse["low"] <= nmse["value"] <= nmse["high"] and nmse["value"] > 0
    assert (nmse["prompts"], nmse["pictures"], nmse["interval"]) == (6, 12, "bootstrap")
    steps = [e["steps"] for e in content["results"] if e["metric"] == "teacher_steps"]
    assert steps == [1, 1, 2]  # the first adds noise in 2
    calls = {
        (e["subject"], e["steps"]): e["value"]
        for e in content["results"]
        if e["metric"] == "unet_calls"
    }
    assert calls == {
        ("teacher", 4): 8,
        (first, 1): 1,
        (first, 2): 2,
        (second, 1): 1,
        (second, 2): 2,
    }
    compared = [e for e in content["comparisons"] if e["metric"] == "nmse"]
    assert [(e["one"], e["other"], e["steps"]) for e in compared] == [
        (second, first, 1),
        (second, first, 2),
    ]
    mine, theirs = (
        result(content, subject=s, steps=2, metric="nmse")["value"] for s in (second, first)
    )
    assert compared[1]["difference"] == pytest.approx(mine - theirs, rel=1e-4)
    assert not any(e["beyond_noise"] for e in content["comparisons"] if e["metric"] == "seconds")


def test_pictures_are_those_of_stock_diffusers_and_latents_theirs(
    done: Path, sd_folder: Path
) -> None:
    from diffusers import DDIMScheduler

    pipe = build_sd()
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    path = done / "pictures" / "teacher" / "4steps" / "00002-seed3.png"
    expected = stock(pipe, PROMPTS[1], 4, 3, guidance_scale=7.5)
    assert np.abs(pixels(path) - expected).max() <= 1
    latents = load_file(path.with_suffix(".safetensors"))["latents"]
    with torch.no_grad():
        decoded = pipe.vae.decode(latents[None] / pipe.vae.config.scaling_factor).sample
    again = np.asarray(pipe.image_processor.postprocess(decoded)[0]).astype(int)
    assert np.abs(again - expected).max() <= 1


@pytest.mark.skipif(not SETS, reason="torch-fidelity, of the extra evaluate, is not here")
def test_distances_of_sets_have_a_floor_and_real_pictures_beside(done: Path) -> None:
    content = content_of(done)
    name = content["adapters"][0]["name"]
    to_teacher = result(content, subject=name, steps=1, metric="fd_dinov2")
    assert to_teacher["floor"] > 0 and to_teacher["interval"] == "half samples"
    to_real = result(content, subject=name, steps=1, metric="fd_dinov2", reference="real")
    teacher = result(content, subject="teacher", steps=4, metric="fd_dinov2", reference="real")
    assert to_real["floor"] == teacher["value"]
    assert (to_teacher["pictures"], to_real["pictures"]) == (6, 12)


def test_the_page_stands_alone_and_shows_texts_as_they_are(done: Path) -> None:
    page = (done / PAGE_NAME).read_text()
    assert "<b>blue</b>" not in page and "&lt;b&gt;blue&lt;/b&gt;" in page and "\x1b" not in page
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    # six prompts; the teacher in 1, 2 and 4 steps, each adapter in 1 and 2
    assert page.count("data:image/png;base64,") == 6 * (3 + 2 + 2)
    heads = re.findall(r"<tr><th>steps</th>(.*?)</tr>", page)  # what a narrow screen shows first
    assert heads == ['<th scope="col">4</th><th scope="col">1</th><th scope="col">2</th>'] * 6
    for content in ("latent NMSE", "Vendi score", "Not measured", "HPS_v2.1_compressed.pt"):
        assert content in page
    card = (done / CARD_NAME).read_text()
    assert card.startswith("## Evaluation\n") and "latent NMSE ↓" in card
    widths = {line.count(" | ") for line in card.splitlines() if line.startswith("| teacher | 4")}
    assert widths and all(line.endswith("|") for line in card.splitlines() if line[:1] == "|")


def drawn_at(output: Path) -> dict[str, int]:
    return {
        str(path.relative_to(output)): path.stat().st_mtime_ns
        for path in output.glob("pictures/**/*.png")
    }


def test_it_goes_on_where_it_ended_and_draws_nothing_twice(
    sd_folder: Path, words: list[Any], tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that died between the two files of a picture, with half of one written."""
    write, written = Drawings.write, []

    def dying(self: Drawings, index: int, seed: int, picture: Any, latents: Any) -> None:
        if len(written) == 9:
            path = self.path(index, seed)
            path.with_suffix(".safetensors").write_bytes(b"half")
            path.with_name(f".{path.name}.part").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(seed)
        write(self, index, seed, picture, latents)

    brief = [*words[: words.index("--metrics")], "--metrics", "nmse", "clip_score"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Drawings, "write", dying)
        evaluate(sd_folder, tmp_path, *brief)
    before = drawn_at(tmp_path)
    assert len(before) == 9
    assert evaluate(sd_folder, tmp_path, *brief) == 0
    after = drawn_at(tmp_path)
    assert len(after) == 12 * 5 and before.items() <= after.items()
    for path in (*tmp_path.glob("pictures/**/*.png"), *tmp_path.glob("pictures/**/*.safetensors")):
        assert path.read_bytes() == (done / path.relative_to(tmp_path)).read_bytes()
    found, whole = content_of(tmp_path), content_of(done)
    for each in found["results"]:
        place = {name: each[name] for name in ("subject", "steps", "metric")}
        assert each["value"] == pytest.approx(result(whole, **place)["value"], rel=1e-3)
    # other settings are other pictures, which are not replaced unasked
    for change in (["--guidance_scale", 2], ["--prompts", words[words.index("--prompts") + 1]]):
        status = 2 if "--guidance_scale" in change else 0
        assert evaluate(sd_folder, tmp_path, *brief, *change) == status
    assert drawn_at(tmp_path) == after
    damaged = tmp_path / "pictures" / "teacher" / "4steps" / "00001-seed0.safetensors"
    damaged.write_bytes(b"x")
    assert evaluate(sd_folder, tmp_path, *brief) == 2
    damaged.unlink()
    assert evaluate(sd_folder, tmp_path, *brief) == 0


def test_processes_share_the_pictures_out(sd_folder: Path, adapter: Path, tmp_path: Path) -> None:
    subjects = make_subjects(
        [(str(adapter), 1.0)],
        [look_up(adapter)],
        steps=[1],
        scheduler=None,
        guidance_scale=2.0,
        size=(None, None),
    )
    plan = Plan(tmp_path, subjects, ["a", "b", "c"], [0, 1], [1], 2)

    def work(team: Team) -> tuple[list[Drawings], list[int], set[str]]:
        counts: list[int] = []
        pipe = build_sd()
        drawings = prepare_drawings(plan, pipe, print)
        speeds = draw_all(plan, pipe, drawings, 2, team, counts.append)
        return drawings, counts, set(speeds)

    # the second begins when the first has ended: what it finds is not its to share out
    drawings, one, timed = work(Team(0, 2))
    same, two, untimed = work(Team(1, 2))
    assert [each.identity for each in drawings] == [each.identity for each in same]
    assert all(each.is_there(*place) for each in drawings for place in each.places())
    total = sum(each.pictures for each in drawings)
    assert sum(one) + sum(two) == total and abs(sum(one) - sum(two)) <= len(drawings)
    assert (len(timed), untimed) == (2, set())


def test_a_metric_of_ones_own_is_measured_and_one_that_fails_leaves_the_others(
    sd_folder: Path,
    words: list[Any],
    done: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(scene: Any) -> Any:
        raise RuntimeError("no\nway")

    monkeypatch.setattr(METRICS, "_known", dict(METRICS._known))
    mine = Metric("mine", "mine", "higher", lambda scene: constant(7.0, 1), about="seven")
    METRICS.add("mine", mine)
    METRICS.add("broken", Metric("broken", "mine", "higher", broken, about="none"))
    before = {name: (done / name).read_text() for name in (JSON_NAME, PAGE_NAME, CARD_NAME)}
    brief = [*words[: words.index("--metrics")], "--metrics", "broken", "mine"]
    assert evaluate(sd_folder, done, *brief) == 1
    said = capsys.readouterr()
    assert "left out: broken: RuntimeError: no way" in said.err and "7.000" in said.out
    for name, text in before.items():
        (done / name).write_text(text)


@pytest.mark.parametrize(
    ("changes", "words_of_error"),
    [
        (["--metrics", "nmsee"], "unknown metric 'nmsee'"),
        (["--metrics", "hpsv2"], "metrics: none of these can be measured here"),
        (["--reference_dir", "nowhere"], "reference_dir: there is no folder nowhere"),
        (["--prompts", "nowhere.txt"], "prompts: there is no file nowhere.txt"),
        (["--steps", 60], "steps: the adapter was trained on 50 solver steps"),
        (["--plugin", "nowhere.py"], "plugin: nowhere.py could not be imported"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_drawn(
    changes: list[Any],
    words_of_error: str,
    sd_folder: Path,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    assert evaluate(sd_folder, output, "--adapter", adapter, *changes) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and words_of_error in last
    assert not output.exists()
