"""Captions and names of others are texts in a card: no markup comes out of them, and none of them
ends what they stand in.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from lcm.config.run import TrainConfig
from lcm.publish.card import Card, make_card
from lcm.publish.code import view_of_others
from tests.support.adapters import make_recipe

TEXTS = {
    "plain": "a red star",
    "picture": "![pixel](http://evil.example/p.png)",
    "heading": "a\n\n# heading\n\n## another",
    "html": "<script>alert(1)</script><img src=x onerror=alert(2)><!-- x",
    "fence": "a\n```\n# out of it\n```python\nx",
    "longer fence": "a\n`````\n# out\n~~~\nx",
    "link": "[a](http://evil.example) <http://evil.example> http://evil.example www.evil.example",
    "mail": "mail me@evil.example and @someone, #12",
    "reference": "[a][b]\n\n[b]: http://evil.example",
    "table": "a | b |\n|---|---|\n| c",
    "front matter": "a\n---\nlicense: mit\n---\n# b",
    "terminal": "a\x1b[2J\x07\x9b31mb\u202ec\u2028d",
    "not UTF-8": "caf\udce9",
    "template": "{{ 7 * 7 }}{% if x %}{# y #}",
    "quotes": "\\ \" ' ''' \"\"\" \\n {x}",
    "list": "1. one\n- two\n> three",
    "emphasis": "**a** __b__ *c* `d` ~~e~~ :smile: &lt; $x$",
    "nothing": "",
    "spaces": "   ",
}
PARSER = MarkdownIt("gfm-like", {"html": True, "linkify": False})


@cache
def card_with(text: str) -> Card:
    """A card with the text wherever one of others can stand."""
    recipe = make_recipe(
        teacher=text,
        teacher_loras=[{"file": text, "weight": 0.5}],
        extra_teachers=[text],
    )
    # flags have to be texts, and some text
    flag = text.encode("ascii", "ignore").decode().strip() or "x"
    config = TrainConfig.of(
        pretrained_teacher_model=f"/home/alice/{flag}",
        train_data_dir="x",
        learning_rate=1e-4,
        init_adapter=flag,
        image_column=flag,
        caption_column=flag,
        teacher_lora=[f"/home/alice/{flag}=0.5"],
    )
    return make_card(recipe, config, config.flat(), [text, text])


def tokens(text: str) -> list[Token]:
    """All tokens of a page, those inside lines too, without its front matter."""
    body = text.split("\n---\n", 1)[1]
    found: list[Token] = []
    for token in PARSER.parse(body):
        found += [token, *(token.children or [])]
    return found


def shape(found: list[Token]) -> list[tuple[str, str]]:
    """What a page is made of, whatever the texts in it are."""
    kept = [t for t in found if t.type not in ("text", "softbreak", "text_special")]
    return [(token.type, token.tag) for token in kept]


@pytest.mark.parametrize("case", TEXTS)
def test_a_page_is_the_same_whatever_is_written_in_it(case: str) -> None:
    plain, found = (tokens(card_with(text).render_here()) for text in ("a red star", TEXTS[case]))
    assert shape(found) == shape(plain)
    assert [t.attrs for t in found if t.type in ("image", "link_open")] == [
        {"src": "images/grid.png", "alt": ""}
    ]
    assert not any(token.type.startswith("html") for token in found)


@pytest.mark.parametrize("case", TEXTS)
def test_nothing_unseen_is_in_a_card(case: str) -> None:
    for view in (None, "me/few"):
        card = card_with(TEXTS[case])
        models = card.made.models
        text = card.render(view_of_others(view, models)) if view else card.render_here()
        assert text.encode()
        assert all(char == "\n" or char.isprintable() for char in text)


@pytest.mark.parametrize("case", TEXTS)
def test_front_matter_and_yaml_are_what_was_meant(case: str) -> None:
    text = card_with(TEXTS[case]).render_here()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "diffusers" and "license" not in front
    assert len(front["widget"]) == 1 and list(front["widget"][0]) == ["text", "output"]
    blocks = [token.content for token in tokens(text) if token.info == "yaml"]
    changes, recipe = (yaml.safe_load(block) for block in blocks)
    assert "image_column" in changes
    assert recipe["objective"] == "lcm"


@pytest.mark.parametrize("case", TEXTS)
def test_python_of_a_card_has_the_prompt_and_the_names(case: str) -> None:
    text = TEXTS[case]
    card = card_with(text)
    blocks = [token.content for token in tokens(card.render_here()) if token.info == "python"]
    names: dict[str, Any] = {"pipe": lambda *given, **_: given}
    for block in blocks:
        compile(block, "README.md", "exec")
    (line,) = [line for line in blocks[0].splitlines() if line.startswith('    "')]
    assert eval(f"pipe({line})", names) == (text,)


@pytest.mark.parametrize("case", TEXTS)
def test_a_card_is_read_as_it_was_written(case: str, tmp_path: Any) -> None:
    card = card_with(TEXTS[case])
    (tmp_path / "card.json").write_text(card.to_json())
    again = Card.read(tmp_path)
    assert again.render_here() == card.render_here()
