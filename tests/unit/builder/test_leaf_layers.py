"""What nothing stands on has no directory until somebody needs one; it is as good as any other result."""

import os
import time

import pytest

from builder import cleaning
from builder.api import build_or_reuse
from builder.options import BuildOptions
from builder.session import Session
from layers.packing import PackedLayer
from layers.snapshotter import Snapshotter
from layers.store import Store
from unionfs.privileges import is_machine_root

COPY = "FROM scratch AS one\nCOPY . /files/\n"
AWAY = 0 if is_machine_root() else 1
"""Directories of layers that are there after a build of one leaf."""


@pytest.fixture
def context(tmp_path):
    root = tmp_path / "context"
    (root / "d").mkdir(parents=True)
    (root / "a").write_bytes(b"a")
    (root / "d" / "b").write_bytes(b"b")
    os.link(root / "a", root / "d" / "also-a")
    return root


class Project:
    def __init__(self, tmp_path, context):
        self.context = context
        self.store = tmp_path / "store"

    def build(self, dockerfile, **options):
        (self.context / "Dockerfile").write_text(dockerfile)
        (self.context / ".dockerignore").write_text("Dockerfile\n.dockerignore\n")
        chosen = BuildOptions(context=str(self.context), source_date_epoch=0, **options)
        return build_or_reuse(chosen, root=str(self.store), emit=lambda _event: None, sources={})

    def layers(self):
        with Store(self.store) as store:
            return len(list(Snapshotter(store).chains()))

    def fresh(self, dockerfile):
        self.store, kept = self.store.with_name("fresh"), self.store
        try:
            return self.build(dockerfile).image_id
        finally:
            self.store = kept


@pytest.fixture
def project(tmp_path, context):
    return Project(tmp_path, context)


def test_it_is_a_hit_without_a_directory(project):
    first = project.build(COPY)
    assert project.layers() == AWAY
    second = project.build(COPY)
    assert (second.image_id, second.steps) == (first.image_id, ())
    assert project.layers() == AWAY


@pytest.mark.parametrize(
    "more",
    [
        "WORKDIR /w\n",
        "COPY a /files\n",
        "FROM scratch\nCOPY --from=one /files/d /\n",
        "FROM one\nCOPY --chmod=600 a /b\n",
        pytest.param("FROM one\nCOPY --chown=3:4 a /b\n", marks=pytest.mark.owners("gives files away")),
        "COPY --link a /files\n",
    ],
)
def test_what_comes_to_stand_on_it_finds_its_files(project, more):
    project.build(COPY)
    made = project.build(COPY + more)
    assert [step.cached for step in made.steps] == [True, False]
    assert made.image_id == project.fresh(COPY + more)


def test_it_is_there_for_who_wants_the_files(project, tmp_path):
    project.build(COPY)
    project.build(COPY, outputs=({"type": "local", "dest": str(tmp_path / "out")},))
    assert (tmp_path / "out/files/d/b").read_bytes() == b"b"
    assert os.path.samefile(tmp_path / "out/files/a", tmp_path / "out/files/d/also-a")


def test_a_collection_keeps_what_only_a_record_names(project, tmp_path):
    image = project.build(COPY)
    with Session(str(project.store)) as session:
        for entry in session.store.entries():
            session.store.forget(entry.digest)
        cleaning.collect_garbage(session)
    again = project.build(COPY)
    assert (again.image_id, again.steps) == (image.image_id, ())
    with Session(str(project.store)) as session:
        for entry in session.store.entries():
            session.store.forget(entry.digest)
        pruned = cleaning.prune(session, everything=True)
        assert pruned.results == 1
        assert list(session.store.blobs) == []


def test_a_layer_that_is_too_large_goes_by_way_of_a_branch(project, monkeypatch):
    from builder import draft

    small = project.build(COPY)
    monkeypatch.setattr(draft, "MOST_ENTRIES", 3)
    large = project.build(COPY, no_cache=True)
    assert large.image_id == small.image_id
    assert project.layers() == 1


def test_a_lost_directory_is_made_again(project):
    dockerfile = COPY + "WORKDIR /w\n"
    made = project.build(dockerfile)
    with Store(project.store) as store:
        snapshots = Snapshotter(store)
        for chain in tuple(snapshots.chains()):
            snapshots.drop(chain)
    again = project.build(dockerfile + "WORKDIR /v\n")
    assert [step.cached for step in again.steps] == [True, True, False]
    assert project.build(dockerfile).image_id == made.image_id


def test_who_needs_its_files_waits_for_a_layer_that_is_not_in_the_store_yet(project, monkeypatch):
    settle = PackedLayer.settle

    def slowly(packed):
        time.sleep(0.2)
        settle(packed)

    monkeypatch.setattr(PackedLayer, "settle", slowly)
    project.build("FROM scratch\nCOPY --link d /a/\nCOPY --link a /a/\nCOPY --link --chmod=600 a /e/\n")
    assert project.layers() == 2 + AWAY


@pytest.mark.parametrize(
    "last",
    [
        "COPY --link a /c",
        pytest.param("COPY --link --chown=1:2 . /d", marks=pytest.mark.owners("gives files away")),
        "COPY --link --chmod=600 a /e/",
    ],
)
def test_what_only_links_stand_on_has_none(project, last, tmp_path):
    stacked = f"FROM scratch\nCOPY --link d /a/\nCOPY --link a /a/\n{last}\n"
    image = project.build(stacked, tags=("x",))
    assert project.layers() == (3 * AWAY if "chmod" not in last else 2 + AWAY)
    assert project.fresh(stacked) == image.image_id
    out = tmp_path / "out"
    project.build(stacked, outputs=({"type": "local", "dest": str(out)},))
    assert (out / "a" / "b").read_bytes() == b"b"
    assert (out / "a" / "a").read_bytes() == b"a"
    # what looks below has its directories
    project.build(f"{stacked}COPY a /a/b\n")
    assert project.layers() >= 3
