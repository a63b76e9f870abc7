"""Texts of others stay texts: on a terminal, in Markdown, in JSON, as a path."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from lcm.system import text as text_module
from lcm.system.json_input import content, field, parse_object, read_object
from lcm.system.paths import is_regular, is_within
from lcm.system.text import code, command_line, markdown, plain

EVIL = "a\x1b[2Jb\rc\nd\u202ee\x07f\x9bg\u2028h\udc80"


def test_no_command_of_a_terminal_is_left() -> None:
    shown = plain(EVIL)
    assert shown == r"a\x1b[2Jb c d\u202ee\x07f\x9bg\u2028h\udc80"
    assert shown.encode() and len(shown.splitlines()) == 1


@pytest.mark.parametrize("text", ["кот на столе", "赤い星", "🧑‍🚀 ❤️", "می‌خواهم", "a cat's café"])
def test_writing_stays_as_it_is(text: str) -> None:
    assert plain(text) == text


def test_a_long_text_keeps_its_ends() -> None:
    assert plain("a" * 50 + "b" * 50, 13) == "aaaaa...bbbbb"


@pytest.mark.parametrize(
    "text",
    [
        "![p](http://evil/p.png)",
        "<script>x</script>",
        "a | b",
        "# head",
        "```\nx",
        "[a](b)",
        "**a**",
    ],
)
def test_markdown_finds_nothing_to_interpret(text: str) -> None:
    """Every character that could be markup stands behind a backslash, on one line."""
    line = markdown(text)
    assert "\n" not in line
    bare = line.replace("\\\\", "")
    for mark in "`*[]<>#|!()":
        assert bare.count(mark) == bare.count(f"\\{mark}")


@pytest.mark.parametrize("text", ["a", "`", "a``b", "x|y", "", "`a`"])
def test_code_is_one_span(text: str) -> None:
    span = code(text)
    fence = span[: len(span) - len(span.lstrip("`"))]
    assert span.endswith(fence) and fence not in span[len(fence) : -len(fence)].split()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cut sho", "is no JSON"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "larger than"),
        ("[" * 100_000, "nested too deep"),
        ("[]", "a list"),
        ("null", "null"),
        (b"\xff", "UTF-8"),
    ],
)
def test_json_that_cannot_be_used_is_named(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_object(text, "lcm.recipe of a.safetensors", "export it again")
    assert str(caught.value).startswith("lcm.recipe of a.safetensors")
    assert str(caught.value).endswith("; export it again")


def test_a_field_has_its_type() -> None:
    assert field({"a": 1}, "a", float, "x", "y") == 1.0
    for values, found in (({"a": True}, "true"), ({"a": None}, "null"), ({}, "missing")):
        with pytest.raises(ValueError, match=f"x: a is {found}, not int; y"):
            field(values, "a", int, "x", "y")


def test_what_never_ends_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match=r"pipe\.json is no file"):
        content(tmp_path / "pipe.json", "x")
    assert not is_regular(tmp_path / "pipe.json")
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_object(tmp_path / "none.json", "x")


def test_a_link_leads_where_it_leads(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a").write_text("a")
    (inside / "there").symlink_to(outside / "a")
    (inside / "here").symlink_to(inside / "a")
    (inside / "round").symlink_to(inside / "round")
    assert [is_within(inside / name, inside) for name in ("a", "here", "there", "round", "no")] == [
        *(True, True, False, False, False)
    ]


@pytest.mark.parametrize(
    "word",
    [
        "a b",
        'say "no" now',
        "C:\\my files\\",
        'a\\" b',
        "-e x",
        "",
        "C:\\a\\b.safetensors",
        "a=1,b",
    ],
)
def test_a_command_is_one_of_the_shell_of_windows_there(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shlex.split(command_line(["lcm", word])) == ["lcm", word]
    monkeypatch.setattr(text_module, "os", SimpleNamespace(name="nt"))
    assert command_line(["lcm", word]) == subprocess.list2cmdline(["lcm", word])


@pytest.mark.parametrize("word", ["a&b", "a|b", "x>y", "(a)", "a'b", "50%", "a^b", "é&"])
def test_no_operator_of_the_shell_of_windows_stands_free(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "os", SimpleNamespace(name="nt"))
    assert command_line(["lcm", word]) == f'lcm "{word}"'
