"""The hub is asked before a run, and what would fail at the end fails at the start."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import train_lcm_lora
from lcm.config.command_line import parse_config
from lcm.publish.hub import check_may_push
from lcm.system.processes import Team
from tests.support.hub import TOKEN, FakeHub, Repository

NOWHERE = {
    "pretrained_teacher_model": "no such teacher",
    "train_data_dir": "no such folder",
    "push_to_hub": True,
}
"""What is refused before either is looked for."""
Prepare = Callable[[FakeHub, pytest.MonkeyPatch], object]
REFUSALS: dict[str, tuple[Prepare, dict[str, Any], list[str]]] = {
    "no token": (
        lambda _, patch: patch.delenv("HF_TOKEN"),
        {},
        ["nobody is logged in", "`hf auth login`", "HF_TOKEN"],
    ),
    "odd token": (
        lambda _, patch: patch.setenv("HF_TOKEN", "hf_zwölf elf"),
        {},
        ["characters that no token has"],
    ),
    "wrong token": (
        lambda _, patch: patch.setenv("HF_TOKEN", "hf_SoMeBoDyElSe"),
        {},
        ["answered 401", "`hf auth login`"],
    ),
    "a mirror's token": (
        lambda hub, patch: (
            patch.setenv("HF_TOKEN", "SoMeBoDyAtAmIrRoR"),
            hub.failures.update({"whoami": 500}),
        ),
        {},
        ["answered 500, no, not for Bearer ***"],
    ),
    "read-only token": (
        lambda hub, _: setattr(hub, "role", "read"),
        {},
        ["alice/out: the hub answered 403", "may not write"],
    ),
    "not mine": (
        lambda *_: None,
        {"hub_model_id": "bob/x"},
        ["bob/x: the hub answered 403", "another --hub_model_id"],
    ),
    "read-only repository": (
        lambda hub, _: hub.repositories.update({"studio/x": Repository(writable=False)}),
        {"hub_model_id": "studio/x"},
        ["studio/x: the hub answered 403"],
    ),
    "public": (
        lambda hub, _: hub.repositories.update({"alice/out": Repository()}),
        {"hub_private": True},
        ["hub_private: alice/out is there and public"],
    ),
    "bad name": (
        lambda *_: None,
        {"hub_model_id": "a/b/c"},
        ["hub_model_id: 'a/b/c' is no name", "someone/name"],
    ),
    "license": (
        lambda *_: None,
        {"license": "mine"},
        ["license 'mine'", "must be one of the list"],
    ),
    "404": (
        lambda hub, _: hub.failures.update({"whoami": 404}),
        {},
        ["answered 404", "hidden from this token"],
    ),
    "500": (
        lambda hub, _: hub.failures.update({"create": 500}),
        {},
        ["alice/out: the hub answered 500", "try again later"],
    ),
    "unreachable": (
        lambda _, patch: patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9"),
        {},
        ["the exchange with 127.0.0.1 failed (ConnectError", "look at the network"],
    ),
    "offline": (
        lambda _, patch: patch.setattr(constants, "HF_HUB_OFFLINE", True),
        {},
        ["HF_HUB_OFFLINE", "unset it"],
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_would_fail_at_the_end_fails_at_the_start(
    case: str,
    hub: FakeHub,
    line: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    prepare, changes, messages = REFUSALS[case]
    prepare(hub, monkeypatch)
    assert train_lcm_lora.main(line(tmp_path / "out", **{**NOWHERE, **changes})) == 2
    said = capfd.readouterr()
    (error,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    for message in messages:
        assert message in error
    for secret in (TOKEN, "hf_SoMeBoDyElSe", "SoMeBoDyAtAmIrRoR", "zwölf"):
        assert secret not in said.err + said.out
    assert not (tmp_path / "out").exists()


def test_a_traceback_has_no_token_in_it(
    hub: FakeHub, line: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCM_TRACEBACK", "1")
    hub.failures["whoami"] = 500
    with pytest.raises(ValueError, match=r"answered 500, no, not for Bearer \*\*\*") as caught:
        train_lcm_lora.main(line(tmp_path / "out", **NOWHERE))
    assert TOKEN not in str(caught.getrepr(style="long", chain=True, showlocals=False))


@pytest.mark.parametrize(
    ("role", "repo_id", "message"),
    [
        ("write", "studio/new", None),
        ("read", "alice/new", "may only read"),
        ("write", "bob/new", "no member of bob"),
    ],
)
def test_a_dry_run_asks_and_makes_nothing(
    role: str,
    repo_id: str,
    message: str | None,
    hub: FakeHub,
    line: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    hub.role = role
    config = parse_config(
        line(tmp_path / "out", push_to_hub=True, hub_model_id=repo_id, dry_run=True)
    )
    if message is None:
        check_may_push(config.hub, config.output.folder, Team(), create=False)
    else:
        with pytest.raises(ValueError, match=message):
            check_may_push(config.hub, config.output.folder, Team(), create=False)
    assert hub.repositories == {}
    assert all(asked.startswith("GET") for asked in hub.asked)


def test_one_of_two_processes_asks_and_both_hear(
    hub: FakeHub, line: Callable[..., list[str]], tmp_path: Path
) -> None:
    barrier, lists, heard = threading.Barrier(2), [[], []], ["", ""]

    def gather(rank: int, mine: list[Any]) -> list[Any]:
        lists[rank] = mine
        barrier.wait(30)
        joined = [*lists[0], *lists[1]]
        barrier.wait(30)
        return joined

    def work(rank: int) -> None:
        config = parse_config(line(tmp_path / "out", push_to_hub=True))
        try:
            team = Team(rank, 2, lambda mine: gather(rank, mine))
            check_may_push(config.hub, config.output.folder, team, create=True)
        except ValueError as error:
            heard[rank] = str(error)

    def both() -> None:
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    both()
    assert heard == ["", ""]
    assert hub.asked.count("GET /api/whoami-v2") == 1
    hub.failures["whoami"] = 401
    both()
    assert ["answered 401" in words for words in heard] == [True, True]
    assert hub.asked.count("GET /api/whoami-v2") == 2


def test_without_the_flag_nobody_asks(
    hub: FakeHub, line: Callable[..., list[str]], tmp_path: Path
) -> None:
    config = parse_config(line(tmp_path / "out"))
    check_may_push(config.hub, config.output.folder, Team(), create=True)
    assert hub.asked == []


def test_a_token_on_the_command_line_is_refused_and_not_repeated(
    line: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--hub_token", TOKEN], [f"--hub_token={TOKEN}"]):
        assert train_lcm_lora.main([*line(tmp_path / "out"), *words]) == 2
        said = capsys.readouterr().err
        assert (
            "unknown flag 'hub_token'" in said and "`hf auth login`" in said and "history" in said
        )
        assert TOKEN not in said
