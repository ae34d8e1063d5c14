"""Images of a real store through every command that shows, names, removes or moves them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.cli import main
from harness.pybuild import Pybuild

DOCKERFILE = "FROM scratch\nLABEL kind=test\nCOPY a /\nCOPY b /\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the image ``hello`` of two layers."""
    directory = tmp_path_factory.mktemp("built")
    context = directory / "context"
    context.mkdir()
    for name in ("a", "b"):
        (context / name).write_text(name * 100)
    (context / "Dockerfile").write_text(DOCKERFILE)
    Pybuild(directory / "store").run("build", "-t", "hello", context)
    return directory / "store"


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return shutil.copytree(built, tmp_path / "store", symlinks=True)


Call = Callable[..., str]


@pytest.fixture
def call(store: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command that has to succeed; what it writes to stdout."""

    def run(*words: str, root: Path = store, status: int = 0) -> str:
        command = 2 if words[0] == "cache" else 1
        assert main.main([*words[:command], "--root", str(root), *words[command:]]) == status
        said = capsys.readouterr()
        return said.err if status else said.out

    return run


def names(call: Call, **where: Path) -> list[str]:
    lines = call("images", "--format", "json", **where).splitlines()
    return [f"{image['repository']}:{image['tag']}" for image in map(json.loads, lines)]


def test_images_as_a_table_ids_and_json(call: Call) -> None:
    head, row = call("images").splitlines()
    assert head.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert re.fullmatch(r"hello +latest +[0-9a-f]{12} +\S.* +\S+B", row)
    (summary,) = map(json.loads, call("images", "--format", "json").splitlines())
    assert summary["repository"] == "hello"
    assert call("images", "-q") == summary["id"] + "\n"
    assert summary["id"].startswith("sha256:")


def test_an_empty_store_has_a_head_and_no_rows(call: Call, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    assert call("images", root=empty) == "REPOSITORY   TAG   IMAGE ID   CREATED   SIZE\n"
    assert call("images", "--format", "json", root=empty) == ""
    assert call("images", "-q", root=empty) == ""


def test_inspect_by_name_id_and_prefix(call: Call) -> None:
    id_ = call("images", "-q").strip()
    for wanted in ("hello", "hello:latest", "docker.io/library/hello", id_, id_.removeprefix("sha256:")[:8]):
        (image,) = json.loads(call("inspect", wanted))
        assert image["Id"] == id_
    assert image["RepoTags"] == ["hello:latest"]
    assert image["config"]["Labels"] == {"kind": "test"}
    assert len(image["rootfs"]["diff_ids"]) == len(image["Layers"]) == 2
    assert len(json.loads(call("inspect", "hello", id_))) == 2


def test_history_shows_the_last_first(call: Call) -> None:
    rows = call("history", "hello").splitlines()[1:]
    assert [re.split(r" {3,}", row)[1].split(" #")[0] for row in rows] == ["COPY b /", "COPY a /", "LABEL kind=test"]
    entries = [json.loads(line) for line in call("history", "--format", "json", "hello").splitlines()]
    assert [entry["size"] > 0 for entry in entries] == [True, True, False]


def test_history_in_ids(call: Call) -> None:
    (id_,) = call("images", "-q").split()
    assert call("history", "-q", "hello").split() == [id_, "<missing>", "<missing>"]


def test_history_cuts_long_commands_unless_told(call: Call, tmp_path: Path) -> None:
    context = tmp_path / "long"
    context.mkdir()
    label = "x" * 200
    (context / "Dockerfile").write_text(f"FROM scratch\nLABEL long={label}\nWORKDIR /w\n")
    Pybuild(tmp_path / "store").run("build", "-t", "long", context)
    assert label not in call("history", "long")
    assert label in call("history", "--no-trunc", "long")


def test_names_come_and_go(call: Call) -> None:
    id_ = call("images", "-q")
    call("tag", "hello", "other:1")
    call("tag", id_.strip(), "localhost:5000/third")
    assert sorted(names(call)) == ["hello:latest", "localhost:5000/third:latest", "other:1"]
    assert call("images", "-q") == id_
    assert call("rmi", "other:1", "hello") == "Untagged: other:1\nUntagged: hello:latest\n"
    assert names(call) == ["localhost:5000/third:latest"]
    assert call("rmi", id_.strip()).startswith("Deleted: sha256:")
    assert names(call) == []


def test_an_id_with_several_names_is_not_removed(call: Call) -> None:
    id_ = call("images", "-q").strip()
    call("tag", "hello", "other:1")
    error = call("rmi", id_, status=1)
    assert "has 2 names: hello:latest, other:1" in error
    assert "hint: remove it by each of its names, or --force" in error
    assert len(names(call)) == 2
    assert call("rmi", "-f", id_) == f"Deleted: {id_}\n"
    assert names(call) == []


def test_what_can_be_removed_is_when_another_is_not_there(call: Call) -> None:
    call("tag", "hello", "other:1")
    error = call("rmi", "nothing", "hello", "none", status=1)
    assert [line for line in error.splitlines() if line.startswith("error")] == [
        line for line in error.splitlines() if " is not in the store " in line
    ]
    assert error.count("error: ") == 2
    assert names(call) == ["other:1"]
    assert call("rmi", "--force", "nothing", "other:1") == "Untagged: other:1\n"
    assert "no image was named" in call("rmi", status=2)


def test_images_without_a_name_are_found_and_removed(call: Call, store: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nWORKDIR /w\n")
    Pybuild(store).run("build", tmp_path)
    assert len(names(call)) == 2
    (nameless,) = call("images", "-q", "--filter", "dangling=true").splitlines()
    assert call("images", "-q", "-f", "dangling=false").strip() != nameless
    assert nameless in call("images", "--no-trunc")
    assert call("rmi", "--prune") == f"Deleted: {nameless}\n"
    assert names(call) == ["hello:latest"]
    assert call("rmi", "--all").startswith("Deleted: ")
    assert names(call) == []


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["hello"], ["hello:latest"]),
        (["hello:latest"], ["hello:latest"]),
        (["docker.io/library/hello"], ["hello:latest"]),
        (["hello:1"], []),
        (["other"], ["other:1"]),
        (["--filter", "reference=*:1"], ["other:1", "r.example/a/b:1"]),
        (["-f", "reference=r.example/*"], ["r.example/a/b:1"]),
        (["-f", "reference=h*", "-f", "dangling=true"], []),
    ],
)
def test_images_of_a_name(words: list[str], found: list[str], call: Call) -> None:
    call("tag", "hello", "other:1")
    call("tag", "hello", "r.example/a/b:1")
    lines = call("images", "--format", "json", *words).splitlines()
    assert sorted(f"{one['repository']}:{one['tag']}" for one in map(json.loads, lines)) == found


def test_a_name_by_digest_has_no_tag(call: Call, store: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nWORKDIR /w\n")
    Pybuild(store).run("build", "-o", "type=image,dangling-name-prefix=x", tmp_path)
    assert "x:<none>" in names(call)


@pytest.mark.parametrize("words", [["inspect"], ["history"], ["rmi"], ["save", "-o", "x.tar"], ["tag"], ["push"]])
def test_an_image_that_is_not_there(
    words: list[str], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["new"] if words[0] == "tag" else []
    assert 'error: image "nothing" is not in the store' in call(*words, "nothing", *more, status=1)
    assert not (tmp_path / "x.tar").exists()


def test_a_name_that_is_none(call: Call) -> None:
    assert "UPPER" in call("tag", "hello", "UPPER", status=1)


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_save_and_load(form: str, call: Call, tmp_path: Path) -> None:
    call("tag", "hello", "other:1")
    archive = tmp_path / "images.tar"
    assert call("save", "--format", form, "-o", str(archive), "hello", "other:1") == ""
    elsewhere = tmp_path / "elsewhere"
    told = call("load", "-i", str(archive), root=elsewhere)
    assert sorted(told.splitlines()) == ["Loaded image: hello:latest", "Loaded image: other:1"]
    assert sorted(names(call, root=elsewhere)) == ["hello:latest", "other:1"]
    (before,), (after,) = (json.loads(call("inspect", "hello", root=root)) for root in (tmp_path / "store", elsewhere))
    assert (after["Id"], after["rootfs"]) == (before["Id"], before["rootfs"])


def test_what_is_no_archive_is_not_loaded(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no archive\n")
    assert call("load", "-i", str(file), status=1).startswith("error: ")
    assert call("load", "-i", str(tmp_path / "absent"), status=1).endswith("no such file or directory\n")
    assert names(call) == ["hello:latest"]


def test_cache_ls_du_and_prune(call: Call) -> None:
    rows = call("cache", "ls").splitlines()
    assert rows[0].split() == ["ID", "TYPE", "SIZE", "LAST", "USED", "DESCRIPTION"]
    assert {"COPY a /", "COPY b /"} <= {re.split(r" {3,}", row)[4].split("] ")[-1] for row in rows[1:]}
    results = [json.loads(line) for line in call("cache", "ls", "--format", "json").splitlines()]
    assert len(results) == len(rows) - 1 == 2
    used = dict(re.split(r" {3,}", row) for row in call("cache", "du").splitlines()[1:])
    assert all(size.endswith("B") for size in used.values())
    assert call("cache", "prune", "--older", "7d").startswith("0 results, 0 layers, 0B freed")
    assert "would be freed" in call("cache", "prune", "--all", "--dry-run")
    assert len(call("cache", "ls").splitlines()) == 3
    assert call("cache", "prune", "-f", "--min-free-space", "1k").startswith("0 results, 0 layers, 0B freed")
    assert call("cache", "prune", "--max-used-space", "1g").startswith("0 results, 0 layers, 0B freed")
    # an image keeps the layers, not the results
    assert call("cache", "prune", "--min-free-space", "9999p", "--dry-run").startswith("2 results, 0 layers, 0B would")
    call("rmi", "hello")
    assert re.match(r"2 results, [12] layers, ", call("cache", "prune", "--min-free-space", "9999p", "--dry-run"))
    # the last layer may have no directory
    assert re.match(r"2 results, [12] layers, ", call("cache", "prune", "--all"))
    assert call("cache", "ls").splitlines() == ["ID   TYPE   SIZE   LAST USED   DESCRIPTION"]
