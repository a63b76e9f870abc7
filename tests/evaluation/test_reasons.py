"""What is published of why a metric is not measured has no folder of this machine in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lcm.evaluation.features import NETS
from lcm.evaluation.reasons import Reason, without_folders
from lcm.evaluation.scoring import choose, look
from lcm.evaluation.weights import MissingError


def test_missing_weights_are_told_of_by_file_and_kind_of_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "jane doe"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(mine / "hub"))
    for folder in (None, mine / "weights"):
        if folder is not None:
            folder.mkdir(parents=True)
        reasons = look(choose(None), folder, 1)
        assert {"clip_score", "fd_inception", "lpips"} <= reasons.keys()
        for reason in reasons.values():
            assert "jane" not in reason.public and str(Path.home()) not in reason.public
        inception = reasons["fd_inception"]
        assert str(mine) in inception.told and "curl -L" in inception.told
        (file,) = NETS["inception"].needs[0].files
        assert f"torch's cache (hub/checkpoints/{file}); get it from https://" in inception.public
        assert ("is not in --metric_weights, nor in" in inception.public) is (folder is not None)
        # which brings the files to where they are looked for on any machine
        command = "get it with hf download openai/clip-vit-large-patch14 model.safetensors"
        assert command in reasons["clip_score"].public
        assert "--local-dir" not in reasons["clip_score"].public


KNOWN = {"--metric_weights": Path("/data/jane doe/w"), "--output": Path("out"), "none": None}


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/data/jane doe/w/net/a.pth is cut", "--metric_weights/net/a.pth is cut"),
        ("'/data/jane doe/w': no", "'--metric_weights': no"),
        ("/data/jane doe/w.old is not it", None),
        ("out of memory in out/pictures/a.png", "out of memory in --output/pictures/a.png"),
        ("/srv/jane/a.pth and ../../jane/b.pth are cut", "a.pth and b.pth are cut"),
        (r"C:\Users\jane\a.pth is cut", "a.pth is cut"),
        ("~/jane/a.pth is cut", "a.pth is cut"),
        ("get it from https://a.org/b/c.pth, 1/2 and/or b/c", None),
    ],
)
def test_errors_keep_the_names_of_files_alone(text: str, public: str | None) -> None:
    found = without_folders(text, KNOWN)
    if public is not None:
        assert found == public
    elif "jane" not in text:
        assert found == text
    assert "--metric_weights.old" not in found


def test_home_and_the_kind_of_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "jane doe"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "jane doe"))
    error = KeyError(f"{tmp_path / 'jane doe' / 'b' / 'a.pth'}")
    found = Reason.of(error, {})
    assert "jane doe" in found.told and found.public == "KeyError: 'a.pth'"
    missing = Reason.of(MissingError("told /a/b", "public"), {})
    assert missing == Reason("told /a/b", "public")
