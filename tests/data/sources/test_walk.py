"""The one rule for what lies below a folder of data: entered, read, passed over, always named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lcm.data.config import DataConfig
from lcm.data.dropped import Dropped
from lcm.data.load import load_data
from lcm.data.loaded import LoadedData
from lcm.data.sources.walk import is_hidden, walk
from tests.support.folders import make_folder, save_image
from tests.support.samples import captions_of
from tests.support.tars import shard

SECRET = "machine example.com password hunter2"


def named(data: LoadedData) -> dict[str, str]:
    """Every file that was left out, and the reason."""
    assert isinstance(data.dropped, Dropped)
    return {one.file: one.reason for one in data.dropped.left_out()}


def load(folder: Path, **changes: Any) -> LoadedData:
    return load_data(DataConfig(train_data_dir=str(folder), **changes))


def sample(folder: Path, name: str, caption: str | None = "seen") -> Path:
    picture = save_image(folder / f"{name}.png")
    if caption is not None:
        (folder / f"{name}.txt").write_text(caption)
    return picture


@pytest.mark.parametrize("captions", ["metadata", "sidecars"])
def test_linked_folders_are_entered(tmp_path: Path, captions: str) -> None:
    data, other = tmp_path / "data", tmp_path / "disk2"
    for folder in (data, other):
        sample(folder, "a", "one" if captions == "sidecars" else None)
    (data / "more").symlink_to(other)
    if captions == "metadata":
        names = ("a.png", "more/a.png")
        rows = [json.dumps({"file_name": name, "text": "one"}) for name in names]
        (data / "metadata.jsonl").write_text("\n".join(rows))
    found = load(data)
    assert captions_of(found.records) == {"a.png": ("one",), "more/a.png": ("one",)}
    assert named(found) == {}


def test_no_folder_is_entered_twice_and_none_above(tmp_path: Path) -> None:
    data = tmp_path / "data"
    sample(data / "z real", "a")
    sample(tmp_path / "disk2", "b")
    links = {
        "a link": data / "z real",
        "circle": data,
        "above": tmp_path,
        "everything": Path("/"),
        "more": tmp_path / "disk2",
        "once more": tmp_path / "disk2",
    }
    for name, target in links.items():
        (data / name).symlink_to(target)
    (tmp_path / "disk2" / "back").symlink_to(data)
    (data / "loop").symlink_to(data / "loop")
    (data / "unmounted").symlink_to(tmp_path / "disk3")
    found = load(data)
    assert list(captions_of(found.records)) == ["more/b.png", "z real/a.png"]
    again = {f"{name}/" for name in (*links, "more/back") if name != "more"}
    assert named(found).keys() == again | {"loop", "unmounted"}


def test_a_row_may_name_a_picture_by_another_of_its_names(tmp_path: Path) -> None:
    data = tmp_path / "data"
    sample(tmp_path / "disk2", "a", None)
    for name in ("one", "two"):
        data.mkdir(exist_ok=True)
        (data / name).symlink_to(tmp_path / "disk2")
    (data / "metadata.csv").write_text("file_name,text\ntwo/a.png,seen\n")
    assert captions_of(load(data).records) == {"one/a.png": ("seen",)}


@pytest.mark.parametrize("kind", ["a.txt", "a.caption", "metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("where", ["outside", "hidden", "hidden folder", "relative", "by two"])
def test_no_text_is_read_from_elsewhere(tmp_path: Path, kind: str, where: str) -> None:
    """What is read becomes captions, and captions are published."""
    data = tmp_path / "data"
    sample(data, "good")
    sample(data, "a", None)
    secret = {
        "outside": tmp_path / "token",
        "hidden": data / ".env",
        "hidden folder": data / ".git" / "config",
        "relative": tmp_path / "token",
        "by two": tmp_path / "token",
    }[where]
    secret.parent.mkdir(exist_ok=True)
    text = {
        "metadata.jsonl": json.dumps({"file_name": "a.png", "text": SECRET}),
        "metadata.csv": f"file_name,text\na.png,{SECRET}\n",
    }.get(kind, SECRET)
    secret.write_text(text)
    if where == "by two":
        (tmp_path / "between").symlink_to(secret)
        secret = tmp_path / "between"
    (data / kind).symlink_to(os.path.relpath(secret, data) if where == "relative" else secret)
    found = load(data)
    assert captions_of(found.records) == {"good.png": ("seen",)}
    reasons = named(found)
    assert "a.png" in reasons and "behind a link" in reasons.get(kind, reasons["a.png"])


@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv", ".txt"])
@pytest.mark.parametrize("kind", ["farm", "blobs"])
def test_pictures_and_their_captions_may_lie_behind_links_together(
    tmp_path: Path, layout: str, kind: str
) -> None:
    """A farm of links to a store, and the hub's cache, whose files are links to blobs."""
    store = make_folder(tmp_path / "store", layout, {"a.png": "one", "in/b.png": "two"})
    data = tmp_path / "data"
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(sorted(path for path in store.rglob("*") if path.is_file())):
        link = data / path.relative_to(store)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = tmp_path / "blobs" / f"sha{number}"
        real = path.rename(blob) if kind == "blobs" else path
        link.symlink_to(os.path.relpath(real, link.parent))
    assert captions_of(load(data).records) == {"a.png": ("one",), "in/b.png": ("two",)}


@pytest.mark.parametrize("kind", ["a.txt", "metadata.jsonl"])
def test_what_is_no_picture_makes_no_text_readable(tmp_path: Path, kind: str) -> None:
    """A link may have the name of one."""
    data = tmp_path / "data"
    sample(data, "good")
    secret = tmp_path / "home" / "token"
    secret.parent.mkdir()
    secret.write_text(json.dumps({"file_name": "good.png", "text": SECRET}))
    (data / "a.png").symlink_to(secret)
    (data / kind).symlink_to(secret)
    assert captions_of(load(data).records) == {"good.png": ("seen",)}


def test_a_picture_makes_no_other_text_of_its_folder_readable(tmp_path: Path) -> None:
    """Pictures and passwords may lie in one folder, somebody's home."""
    data, home = tmp_path / "data", tmp_path / "home"
    sample(data, "good")
    home.mkdir()
    save_image(home / "me.png")
    (home / "passwords.txt").write_text(SECRET)
    (data / "a.png").symlink_to(home / "me.png")
    (data / "a.txt").symlink_to(home / "passwords.txt")
    assert captions_of(load(data).records) == {"good.png": ("seen",)}


def test_a_snapshot_of_the_hub_may_have_texts_alone_behind_links(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    (blobs / "sha").write_text("seen")
    save_image(snapshot / "a.png")
    (snapshot / "a.txt").symlink_to("../../blobs/sha")
    assert captions_of(load(snapshot).records) == {"a.png": ("seen",)}


@pytest.mark.parametrize("name", ["b.png", "b.txt", "b.caption", "metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_what_never_ends_is_not_opened(tmp_path: Path, name: str, kind: str) -> None:
    sample(tmp_path, "a")
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to(kind)
    found = load(tmp_path)
    assert list(captions_of(found.records)) == ["a.png"]
    assert named(found) == {name: "that are pipes or devices"}


def test_hidden_pictures_are_passed_over_and_named(tmp_path: Path) -> None:
    sample(tmp_path, "a")
    sample(tmp_path, "._a")
    sample(tmp_path / ".thumbnails", "a")
    sample(tmp_path / "in" / ".cache" / "deep", "b")
    (tmp_path / ".DS_Store").write_text("")
    (tmp_path / ".thumbnails" / "metadata.jsonl").write_text("no metadata of ours")
    found = load(tmp_path)
    assert (list(captions_of(found.records)), found.dropped) == (["a.png"], {})
    hidden = ["._a.png", ".thumbnails/a.png", "in/.cache/deep/b.png"]
    assert named(found) == dict.fromkeys(hidden, "hidden")


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        *((path, False) for path in ("a.png", "./a.png", "../a/b.png", "v1.5/a.b.png")),
        *((path, True) for path in (".a.png", "a/.b/c.png", "..a.png", "._a.png")),
    ],
)
def test_hidden_is_what_begins_with_a_dot(path: str, hidden: bool) -> None:
    assert is_hidden(Path(path)) == hidden


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(tmp_path, "a")
    sample(tmp_path / "locked", "b")
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = load(tmp_path)
    assert named(found) == {"locked/": "folders that cannot be read"}


def test_shards_follow_the_same_rule(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shard(data / "a.TAR", 1)
    (tmp_path / "disk2").mkdir()
    shard(tmp_path / "disk2" / "b.tar", 1)
    (data / "more").symlink_to(tmp_path / "disk2")
    (data / "circle").symlink_to(data)
    shard(data / "._c.tar", 1)
    os.mkfifo(data / "d.tar")
    (data / "e.tar.gz").write_bytes(b"")
    found = load_data(DataConfig(webdataset=str(data)))
    assert list(captions_of(found.records)) == ["a.TAR/0", "more/b.tar/0"]
    assert named(found).keys() == {"circle/", "._c.tar", "d.tar", "e.tar.gz"}


def test_files_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ["b/a.png", "a/z.png", "B.png", "a.png", "a b/c.png"]
    for name in names:
        save_image(tmp_path / name)
    found = walk(tmp_path, Dropped()).files
    assert found == sorted(tmp_path / name for name in names)
