"""Weights of metrics: where they are looked for, what is said where they are missing, and that
none of them runs code.
"""

from __future__ import annotations

import os
import pickle
import shlex
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from lcm.evaluation.nets.hpsv2 import FILE, HPSV2, build
from lcm.evaluation.scoring import choose, look
from lcm.evaluation.weights import MissingError, Weights, tensors_of
from tests.support.evaluations import CPU, write_words

OF_HUB = Weights("net", ("model.safetensors", "config.json"), repo="someone/net")


def test_what_is_missing_is_named_with_the_places_and_a_way(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.safetensors").write_bytes(b"")
    with pytest.raises(MissingError) as error:
        OF_HUB.find(tmp_path)
    said = str(error.value)
    assert said.startswith("config.json is not in ")
    assert str(tmp_path / "net") in said and "cache of the hub (someone/net)" in said
    words = shlex.split(said.partition("get it with ")[2])
    assert words[:3] == ["hf", "download", "someone/net"]
    # the command brings the files to where they are then found
    target = Path(words[words.index("--local-dir") + 1])
    for name in words[3 : words.index("--local-dir")]:
        (target / name).write_bytes(b"")
    assert OF_HUB.find(tmp_path) == target


def test_a_file_of_an_address_is_found_where_curl_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Weights("inception", ("a.pth",), url="https://example.org/a.pth")
    for number, folder in enumerate((None, tmp_path / "mine")):
        monkeypatch.setattr(torch.hub, "get_dir", lambda n=number: str(tmp_path / f"hub{n}"))
        with pytest.raises(MissingError) as error:
            one.find(folder)
        words = shlex.split(str(error.value).partition("get it with ")[2])
        path = Path(words[words.index("-o") + 1])
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        assert one.find(folder) == path.parent


def test_metrics_without_their_weights_are_left_out_and_no_others(tmp_path: Path) -> None:
    names = choose(None)
    reasons = look(names, tmp_path, 2)
    assert not reasons.keys() & {"nmse", "teacher_steps", "diversity", "color_shift", "seconds"}
    assert "model.safetensors is not in" in reasons["clip_score"].told
    assert "vocab.json" in reasons["pick_score"].told  # of another folder, which is told at once
    one_seed = look(names, tmp_path, 1)
    assert "--seeds 0 1" in one_seed["nmse"].told and "contrast" not in one_seed
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"metric_weights: .*file is no folder; pass"):
        look(names, tmp_path / "file", 2)
    with pytest.raises(ValueError, match=r"unknown metric 'nmsee'.*Did you mean 'nmse'"):
        choose(["nmsee"])


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo ran > ran",)


def test_no_file_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    for write in (
        lambda: torch.save({"state_dict": Evil()}, path),
        lambda: path.write_bytes(pickle.dumps(Evil())),
        lambda: path.write_bytes(b"\0" * 99),
        lambda: torch.save([], path),
    ):
        write()
        with pytest.raises(ValueError, match=r"weights\.pth .*download it again"):
            tensors_of(path)
    assert not (tmp_path / "ran").exists()
    torch.save({"state_dict": {"a": torch.ones(2)}}, path)
    assert tensors_of(path)["a"].tolist() == [1, 1]
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert tensors_of(tmp_path / "a.safetensors")["a"].tolist() == [1, 1]


# --- HPS v2.1 -------------------------------------------------------------------------------------


class Block(nn.Module):
    """A layer as open_clip has it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 2 * width), "c_proj": nn.Linear(2 * width, width)}
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class Tower(nn.Module):
    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 128, 8, stride=8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(128))
        self.positional_embedding = nn.Parameter(torch.randn(5, 128))
        self.ln_pre, self.ln_post = nn.LayerNorm(128), nn.LayerNorm(128)
        self.transformer = Tower(128, 2, 2)
        self.proj = nn.Parameter(torch.randn(128, 24))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """The CLIP of open_clip, written after its paper: the end of a text is its largest token."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.visual, self.transformer = Visual(), Tower(64, 1, 1)
        self.token_embedding = nn.Embedding(words, 64)
        self.positional_embedding = nn.Parameter(torch.randn(77, 64))
        self.ln_final = nn.LayerNorm(64)
        self.text_projection = nn.Parameter(torch.randn(64, 24))
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_text(self, tokens: Tensor) -> Tensor:
        mask = torch.full((77, 77), float("-inf")).triu(1)
        x = self.transformer(self.token_embedding(tokens) + self.positional_embedding, mask)
        x = self.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=1)]
        return x @ self.text_projection


@torch.no_grad()
def test_hps_reads_the_file_of_open_clip(tmp_path: Path) -> None:
    words = write_words(tmp_path)
    torch.manual_seed(0)
    theirs = OpenClip(words).eval()
    torch.save({"epoch": 1, "state_dict": theirs.half().state_dict()}, tmp_path / FILE)
    theirs.float()
    ours = HPSV2.load([tmp_path, tmp_path], CPU)
    pixels = torch.randn(2, 3, 16, 16)
    pooled = ours.network.vision_model(pixel_values=pixels).pooler_output
    found = ours.network.visual_projection(pooled)
    torch.testing.assert_close(found, theirs.visual(pixels), rtol=1e-3, atol=1e-3)
    read = ours.tokenizer(["a red star", "blue"], padding="max_length", max_length=77)
    tokens = torch.tensor(read["input_ids"])
    # open_clip fills up with zeros
    tokens[(tokens == words - 1).cumsum(1) > 1] = 0
    expected = F.normalize(theirs.encode_text(tokens), dim=-1)
    torch.testing.assert_close(ours.texts(["a red star", "blue"]), expected, rtol=1e-3, atol=1e-3)
    assert ours.scale == pytest.approx(torch.tensor(3.0).exp().item(), rel=1e-3)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    write_words(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / FILE)
    with pytest.raises(ValueError, match=r"is not HPS v2\.1"):
        HPSV2.load([tmp_path, tmp_path], CPU)
    with pytest.raises(ValueError, match="empty"):
        build({})
