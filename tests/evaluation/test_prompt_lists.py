"""Lists of prompts: ours, those of others as they publish them, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcm.evaluation.prompt_lists import BUILT_IN, read

AS_PUBLISHED = {
    "plain.txt": "a red star\n\n  a blue square  \na red star\n",
    "PartiPrompts.tsv": (
        "Prompt\tCategory\tChallenge\tNote\n"
        'a red star\tAbstract\tBasic\t"\na blue square\tArts\tBasic\t\n'
    ),
    "coco.csv": 'image_id,caption\n1,"a red star"\n2,"a blue\nsquare"\n',
    "geneval.jsonl": (
        '{"tag": "single_object", "include": [], "prompt": "a red star"}\n'
        '{"tag": "position", "include": [{"class": "x"}], "prompt": "a blue square"}\n'
    ),
    "mjhq.json": (
        '{"0a": {"category": "art", "prompt": "a red star"}, '
        '"1b": {"category": "logo", "prompt": "a blue square"}}'
    ),
    "captions_val2017.json": (
        '{"images": [], "annotations": [{"id": 1, "caption": "a red star"}, '
        '{"id": 2, "caption": "a blue square "}]}'
    ),
    "texts.json": '["a red star", "a blue square"]',
}


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_lists_are_read_as_they_are_published(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(AS_PUBLISHED[name])
    assert read(path) == ["a red star", "a blue square"]


def test_ours_are_200_different_ones() -> None:
    prompts = read(None)
    assert len(prompts) == 200 == len({prompt.lower() for prompt in prompts})
    assert BUILT_IN.read_text().splitlines() == prompts
    assert all(prompt.isascii() and prompt == prompt.strip() for prompt in prompts)
    assert sum(len(prompt.split()) > 25 for prompt in prompts) >= 20  # long ones
    assert sum('"' in prompt for prompt in prompts) >= 10  # writing


def test_fewer_are_spread_over_the_list(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("\n".join(f"prompt {i}" for i in range(100)))
    assert read(path, None, 4) == ["prompt 0", "prompt 25", "prompt 50", "prompt 75"]
    assert len(read(path, None, 1000)) == 100


def test_a_column_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("english,prompt\nx,y\n")
    assert read(path, "english") == ["x"] and read(path) == ["y"]


@pytest.mark.parametrize(
    ("name", "content", "column", "words"),
    [
        ("none.txt", None, None, "there is no file"),
        ("empty.txt", b"\n \n", None, "holds no prompt"),
        ("latin.txt", "caf\xe9".encode("latin-1"), None, "save it as UTF-8"),
        ("wide.txt", b"a\0b\0", None, "UTF-8"),
        ("long.txt", b"x" * 20_000, None, "20000 characters"),
        ("plain.txt", b"x", "prompt", "prompt_column: .* has no columns"),
        ("t.csv", b"a,b\n1,2\n", None, "has a, b; say which is the prompt with --prompt_column"),
        ("t.csv", b"promt,b\n1,2\n", "prompt", "has no 'prompt'; .*Did you mean 'promt'"),
        ("t.jsonl", b'{"prompt": "x"}\n[', None, "line 2 is no JSON"),
        ("t.jsonl", b'{"prompt": "x"}\n3\n', None, "entry 2 is 3, no object"),
        ("t.jsonl", b'{"prompt": "x"}\n{"prompt": 7}\n', None, "has 7 in the place of a prompt"),
        ("t.json", b"3", None, "holds no list"),
        ("t.json", b"[" * 100_000, None, "no JSON|nested too deep"),
        ("t.json", b'["\\ud800"]', None, "surrogate"),
    ],
)
def test_what_is_no_list_is_refused_in_one_line(
    name: str, content: bytes | None, column: str | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, OSError), match=words) as error:
        read(path, column)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert str(path) in str(error.value)
