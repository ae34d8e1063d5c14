"""What is in a key and what is not, as one table (docs/formats, "Cache keys"), and the table's own test.

A row is a step and the same step with one thing changed. A changed part of the key must miss, under both keys unless
the row says otherwise; what is no part must hit. The mutations then leave out each part there is, one at a time: the
table must notice every one. So a part that is forgotten in the code, now or later, cannot go unseen, and neither can a
new part without a row.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import cache.keys
from builder.bases import Base
from builder.context import open_context
from builder.dockerfile.source import SourceRange
from builder.graph import (
    BaseRef,
    BindMount,
    CacheMount,
    Copy,
    GitSource,
    HttpSource,
    InlineFile,
    MakeDirectory,
    Operation,
    Run,
    SecretMount,
    SshMount,
    Step,
    StepId,
    TmpfsMount,
)
from builder.remote.content import FetchedFile
from builder.remote.git import GitCommit
from builder.remote.sources import Resolved
from builder.results import LayerResult, StepResult
from builder.session import Session
from builder.steps import copykeys
from builder.steps import keys as step_keys
from cache import contenthash
from cache.contenthash import TreeEntry
from layers.config import ImageConfig
from layers.descriptor import Descriptor
from layers.digest import sha256
from layers.manifest import Manifest
from layers.packing import commit_layer
from layers.platform import Platform

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
PLACE = SourceRange("Dockerfile", 1, 1)
BASE, STAGE = StepId(0), StepId(1)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
RUN = Run(
    argv=("/bin/sh", "-c", "make"), env=("PATH=/bin", "VERSION=1"), cwd="/src", user="app", network="default",
    security="sandbox", mounts=(), hostname=None, shell_text="make", proxy_env=("HTTP_PROXY=http://a",),
)  # fmt: skip
BIND = BindMount("/m", "/d", None, read_only=True)
CACHE = CacheMount("/k", "id", "shared", False, "/d", STAGE, 0o755, 0, 0)
SECRET = SecretMount("s", "/run/secrets/s", None, False, 0o400, 0, 0)
AGENT = SshMount("default", "/ssh", False, 0o600, 0, 0)
LOCAL = Copy(("/d", "/f*"), "/to/", None)
ONE = Copy(("/f",), "/to/x", None)
NAMED = ONE._replace(chown="app:staff")
INLINE = Copy((), "/to/", None, inline=(InlineFile("n", "text"),))
FROM_STAGE = Copy(("/d",), "/to/", STAGE)
ADD = Copy(("/f",), "/to/", None, unpack=True)
WORKDIR = MakeDirectory("/w", "5")
HTTP = Copy((), "/to/", None, http=(HttpSource("http://a/f", "f", ""),))
GIT = Copy((), "/to/", None, git=(GitSource("https://a/r.git", "main", "", False, ""),))
FILE = FetchedFile(-1, "f", "1" * 64, 5, 7)
COMMIT = GitCommit("c" * 40)


class Case(NamedTuple):
    """One step and all that its key is made of; directories by what is done to them."""

    operation: Operation
    files: Callable[[Path], object] | None = None
    stage: Callable[[Path], object] | None = None
    below: Callable[[Path], object] | None = None
    rebuilt: str = ""
    """Of a step, ``stage`` or ``below``, that was built anew and came out the same; ``otherwise``: it came out new."""
    platform: Platform = AMD64
    network: str = "default"
    hosts: tuple[str, ...] = ("db:10.0.0.1",)
    ulimits: tuple[str, ...] = ("nofile=64:64",)
    capabilities: tuple[str, ...] = ()
    epoch: int | None = None
    fetched: FetchedFile = FILE
    commit: GitCommit = COMMIT


class Row(NamedTuple):
    """``definition`` and ``content`` say whether that key misses."""

    name: str
    one: Case
    other: Case
    definition: bool = True
    content: bool = True


def changed(name: str, case: Case, definition: bool = True, content: bool = True, **fields: Any) -> Row:
    """``fields`` are of the case or of its operation."""
    own = {key: value for key, value in fields.items() if key in Case._fields}
    rest = {key: value for key, value in fields.items() if key not in own}
    other = case._replace(operation=case.operation._replace(**rest), **own)
    return Row(name, case, other, definition, content)


def same(name: str, case: Case, **fields: Any) -> Row:
    return changed(name, case, definition=False, content=False, **fields)


def mounts(name: str, mount: Any, **fields: Any) -> Row:
    case = Case(RUN._replace(mounts=(mount,)))
    return changed(f"RUN {type(mount).__name__} {name}", case, mounts=(mount._replace(**fields),))


def write(name: str, content: bytes = b"other") -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(content)


def replace(name: str, kind: int, device: int = 0, mode: int = 0o644) -> Callable[[Path], object]:
    def put(root: Path) -> None:
        (root / name).unlink()
        os.mknod(root / name, kind | mode, device)

    return put


def put_link(target: str) -> Callable[[Path], object]:
    return lambda root: ((root / "d/l").unlink(), (root / "d/l").symlink_to(target))


def again(name: str) -> Callable[[Path], object]:
    """Another file with the same content."""
    return lambda root: (shutil.copy2(root / name, root / "copy"), (root / "copy").rename(root / name))


def times(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        os.utime(path, (5, 6), follow_symlinks=False)


NEW = write("new")

FILES: dict[str, Callable[[Path], object]] = {
    "bytes": write("d/b", b"BYTES"),
    "bytes of a file by wildcard": write("f"),
    "size": write("d/b", b"bytes and more"),
    "path": lambda root: (root / "d/b").rename(root / "d/c"),
    "path of a directory": lambda root: (root / "d/sub").rename(root / "d/bus"),
    "path from one directory to another": lambda root: (root / "d/b").rename(root / "d/sub/b"),
    "mode": lambda root: (root / "d/b").chmod(0o755),
    "mode of a directory": lambda root: (root / "d/sub").chmod(0o700),
    "set-uid bit": lambda root: (root / "d/b").chmod(0o4644),
    "type": lambda root: ((root / "d/p").unlink(), (root / "d/p").mkdir(0o644)),
    "another empty directory": lambda root: (root / "d/empty").mkdir(),
    "one less": lambda root: (root / "d/b").unlink(),
    "one more that the wildcard finds": write("f2"),
    "link name": put_link("elsewhere"),
    "attribute": lambda root: os.setxattr(root / "d/b", "user.x", b"1"),
    "attribute's value": lambda root: os.setxattr(root / "d/x", "user.x", b"2"),
    "attribute of a directory": lambda root: os.setxattr(root / "d/sub", "user.x", b"1"),
    "capability": lambda root: os.setxattr(root / "d/b", "security.capability", CAPABILITY),
    "names of one file": again("d/one"),
    "ignore file": write(".dockerignore", b"d/b"),
}
DEVICE = Case(LOCAL, files=replace("d/b", stat.S_IFCHR, os.makedev(1, 3)))
OTHER_FILES: dict[str, Callable[[Path], object]] = {
    "times": times,
    "access": lambda root: (root / "d/b").read_bytes(),
    "inode": again("d/b"),
    "owner in the context": lambda root: os.chown(root / "d/b", 7, 7),
    "attributes of the machine": lambda root: os.setxattr(root / "d/b", "security.other", b"x"),
    "a file that is not taken": write("elsewhere"),
    "the taken directory's own mode": lambda root: (root / "d").chmod(0o700),
    "another name outside": lambda root: os.link(root / "d/b", root / "elsewhere"),
    "excluded files": write(".dockerignore", b"elsewhere"),
}
ROWS = (
    # -- COPY and ADD of the context
    *(changed(f"COPY: {name}", Case(LOCAL), files=change) for name, change in FILES.items()),
    *(same(f"COPY: {name}", Case(LOCAL), files=change) for name, change in OTHER_FILES.items()),
    Row("COPY: device", DEVICE, DEVICE._replace(files=replace("d/b", stat.S_IFCHR, os.makedev(1, 5)))),
    Row("COPY: kind of node", DEVICE, DEVICE._replace(files=replace("d/b", stat.S_IFBLK, os.makedev(1, 3)))),
    changed("COPY: file name by wildcard", Case(LOCAL), files=lambda root: (root / "f").rename(root / "fg")),
    changed("COPY: destination", Case(LOCAL), destination="/into/"),
    changed("COPY: name where the destination is a directory", Case(ONE._replace(destination="/to/")),
            sources=("/g",), destination="/to/"),
    changed("COPY: name where the destination is one below", Case(ONE, below=lambda root: (root / "to/x").mkdir()),
            sources=("/g",)),
    same("COPY: name of a single file", Case(ONE), sources=("/g",)),
    changed("COPY: order of sources", Case(LOCAL), sources=("/f*", "/d")),
    changed("COPY --chmod", Case(LOCAL), chmod="700"),
    changed("COPY --chown", Case(LOCAL), chown="1:2"),
    changed("COPY --link", Case(LOCAL), link=True),
    changed("COPY --parents", Case(LOCAL), parents=True),
    changed("COPY --parents: pivot", Case(LOCAL._replace(parents=True, sources=("/d/./sub/y",))),
            sources=("/./d/sub/y",)),
    changed("COPY --exclude", Case(LOCAL), excludes=("b",)),
    same("COPY --exclude of nothing", Case(LOCAL), excludes=("nothing",)),
    changed("COPY: parent", Case(LOCAL), below=write("new")),
    changed("COPY: step below", Case(LOCAL), rebuilt="below", content=False),
    changed("COPY: step below that gives something else each time", Case(LOCAL), rebuilt="otherwise"),
    same("COPY --link: parent", Case(LOCAL._replace(link=True)), below=write("new")),
    changed("COPY --link --chown: passwd", Case(NAMED._replace(link=True)),
            below=write("etc/passwd", b"app:x:8:9::/:\n")),
    changed("COPY --link --chown: group", Case(NAMED._replace(link=True)), below=write("etc/group", b"staff:x:8:\n")),
    same("COPY --link --chown by number: passwd", Case(ONE._replace(link=True, chown="1:2")),
         below=write("etc/passwd", b"app:x:8:9::/:\n")),
    changed("COPY: here-document", Case(INLINE), inline=(InlineFile("n", "other"),)),
    changed("COPY: here-document's name", Case(INLINE), inline=(InlineFile("m", "text"),)),
    changed("COPY: epoch", Case(LOCAL), epoch=0),
    changed("COPY: another epoch", Case(LOCAL, epoch=1), epoch=0),
    changed("ADD --unpack", Case(ADD), unpack=False),
    # -- COPY of a step
    *(changed(f"COPY --from: {name}", Case(FROM_STAGE), stage=FILES[name])
      for name in ("bytes", "path", "mode", "type", "link name", "attribute", "capability", "names of one file")),
    changed("COPY --from: owner", Case(FROM_STAGE), stage=lambda root: os.chown(root / "d/b", 7, 0)),
    changed("COPY --from: group", Case(FROM_STAGE), stage=lambda root: os.chown(root / "d/b", 0, 7)),
    changed("COPY --from: pattern", Case(FROM_STAGE), sources=("/d/sub",)),
    changed("COPY --from: pattern that selects the same", Case(FROM_STAGE), sources=("/d/.",), content=False),
    changed("COPY --from: exclude", Case(FROM_STAGE), excludes=("b",)),
    changed("COPY --from: what is not copied", Case(FROM_STAGE), stage=write("elsewhere"), content=False),
    changed("COPY --from: step", Case(FROM_STAGE), rebuilt="stage", content=False),
    # -- ADD of what is elsewhere
    changed("ADD http: body", Case(HTTP), fetched=FILE._replace(sha256="2" * 64)),
    changed("ADD http: file name", Case(HTTP), fetched=FILE._replace(name="g")),
    changed("ADD http: Last-Modified", Case(HTTP), fetched=FILE._replace(mtime=8)),
    changed("ADD http --unpack", Case(HTTP), unpack_remote=True),
    same("ADD http: URL", Case(HTTP), http=(HttpSource("https://b/f?x", "f", ""),)),
    changed("ADD git: commit", Case(GIT), commit=GitCommit("d" * 40)),
    changed("ADD git: subdirectory", Case(GIT), git=(GIT.git[0]._replace(subdirectory="s"),)),
    changed("ADD git: keep-git-dir", Case(GIT), git=(GIT.git[0]._replace(keep_git_dir=True),)),
    changed("ADD git: submodules", Case(GIT), git=(GIT.git[0]._replace(submodules=False),)),
    changed("ADD git: excludes", Case(GIT), excludes=("b",)),
    same("ADD git: name of a branch", Case(GIT), git=(GIT.git[0]._replace(ref="other"),)),
    same("ADD git: remote", Case(GIT), git=(GIT.git[0]._replace(remote="https://b/r.git"),)),
    # -- WORKDIR
    changed("WORKDIR: path", Case(WORKDIR), path="/v"),
    changed("WORKDIR: user", Case(WORKDIR), user="6"),
    changed("WORKDIR: parent", Case(WORKDIR), below=write("new")),
    changed("WORKDIR: step below", Case(WORKDIR), rebuilt="below", content=False),
    changed("WORKDIR: step below that gives something else each time", Case(WORKDIR), rebuilt="otherwise"),
    changed("WORKDIR: epoch", Case(WORKDIR), epoch=0),
    # -- RUN
    changed("RUN: command", Case(RUN), argv=("/bin/sh", "-c", "make all")),
    changed("RUN: value of a variable of the base", Case(RUN), env=("PATH=/usr/bin", "VERSION=1")),
    changed("RUN: value of a variable", Case(RUN), env=("PATH=/bin", "VERSION=2")),
    changed("RUN: another variable", Case(RUN), env=("PATH=/bin", "VERSION=1", "MORE=")),
    changed("RUN: directory", Case(RUN), cwd="/"),
    changed("RUN: user", Case(RUN), user="0"),
    changed("RUN: platform", Case(RUN), platform=ARM64),
    changed("RUN: host name", Case(RUN), hostname="h"),
    changed("RUN: name of a host", Case(RUN), hosts=("other:10.0.0.1",)),
    same("RUN: address of a host", Case(RUN), hosts=("db=10.9.9.9",)),
    changed("RUN: capabilities", Case(RUN), capabilities=("+SYS_PTRACE",)),
    changed("RUN: limits of processes", Case(RUN), ulimits=("nofile=64:65",)),
    changed("RUN --network", Case(RUN), network="none"),
    changed("RUN: network of the build", Case(RUN), network="none"),
    changed("RUN --security", Case(RUN), security="insecure"),
    changed("RUN --device", Case(RUN), devices=("/dev/fuse",)),
    changed("RUN: here-document", Case(RUN._replace(script=InlineFile("E", "one"))), script=InlineFile("E", "two")),
    changed("RUN: parent", Case(RUN), below=write("new")),
    changed("RUN: step below", Case(RUN), rebuilt="below", content=False),
    changed("RUN: step below that gives something else each time", Case(RUN), rebuilt="otherwise"),
    changed("RUN: epoch", Case(RUN), epoch=0),
    changed("RUN: one mount less", Case(RUN._replace(mounts=(BIND, SECRET))), mounts=(BIND,)),
    same("RUN: proxies", Case(RUN), proxy_env=("HTTP_PROXY=http://b",)),
    same("RUN: id of a cache", Case(RUN._replace(mounts=(CACHE,))), mounts=(CACHE._replace(id="other"),)),
    *(changed(f"RUN bind: {name}", Case(RUN._replace(mounts=(BIND,))), files=FILES[name])
      for name in ("bytes", "path", "mode", "link name", "attribute")),
    same("RUN bind: times", Case(RUN._replace(mounts=(BIND,))), files=times),
    mounts("target", BIND, target="/n"),
    mounts("source", BIND, source="/d/sub"),
    mounts("source that holds the same", BIND, source="/d2"),
    mounts("readwrite", BIND, read_only=False),
    changed("RUN bind from a step: files", Case(RUN._replace(mounts=(BIND._replace(from_step=STAGE),))),
            stage=FILES["bytes"]),
    changed("RUN bind from a step: what is not shown", Case(RUN._replace(mounts=(BIND._replace(from_step=STAGE),))),
            stage=write("elsewhere"), content=False),
    changed("RUN bind from a step: step", Case(RUN._replace(mounts=(BIND._replace(from_step=STAGE),))),
            rebuilt="stage", content=False),
    mounts("target", CACHE, target="/n"),
    mounts("sharing", CACHE, sharing="locked"),
    mounts("readonly", CACHE, read_only=True),
    mounts("mode", CACHE, mode=0o700),
    mounts("uid", CACHE, uid=1),
    mounts("gid", CACHE, gid=1),
    mounts("source", CACHE, source="/d/sub"),
    changed("RUN cache: first content", Case(RUN._replace(mounts=(CACHE,))), stage=FILES["bytes"]),
    mounts("target", TmpfsMount("/t", 0), target="/n"),
    mounts("size", TmpfsMount("/t", 0), size_bytes=1),
    Row("RUN: kind of mount", Case(RUN._replace(mounts=(SecretMount("i", "/t", None, False, 0o600, 0, 0),))),
        Case(RUN._replace(mounts=(SshMount("i", "/t", False, 0o600, 0, 0),)))),
    mounts("id", SECRET, id="other"),
    mounts("target", SECRET, target="/s"),
    mounts("env", SECRET, env="TOKEN"),
    mounts("required", SECRET, required=True),
    mounts("mode", SECRET, mode=0o444),
    mounts("uid", SECRET, uid=1),
    mounts("gid", SECRET, gid=1),
    mounts("id", AGENT, id="other"),
    mounts("target", AGENT, target="/s"),
    mounts("required", AGENT, required=True),
    mounts("mode", AGENT, mode=0o666),
    mounts("uid", AGENT, uid=1),
    mounts("gid", AGENT, gid=1),
)  # fmt: skip


def plant(root: Path) -> None:
    (root / "d/sub").mkdir(parents=True)
    (root / "d2").mkdir()
    for name, content in {"f": b"f", "g": b"f", "d/b": b"bytes", "d/sub/y": b"y", "d/x": b"x", "d/one": b"1"}.items():
        (root / name).write_bytes(content)
    shutil.copytree(root / "d", root / "d2", dirs_exist_ok=True, symlinks=True)
    os.link(root / "d/one", root / "d/other")
    os.setxattr(root / "d/x", "user.x", b"1")
    os.mkfifo(root / "d/p", 0o644)
    (root / "d/l").symlink_to("target")


def plant_below(root: Path) -> None:
    (root / "etc").mkdir(parents=True)
    (root / "to").mkdir()
    (root / "etc/passwd").write_text("app:x:5:6::/home:\n")
    (root / "etc/group").write_text("staff:x:7:\n")


class Laboratory:
    """Makes keys of cases; what lies on disk for one is made once."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.session = Session(str(top / "store"), pytest.fail)
        self._results: dict[object, StepResult] = {}
        self._contexts: dict[object, Path] = {}

    def keys(self, case: Case) -> step_keys.StepKeys:
        inputs = (STAGE,)
        step = Step(StepId(2), case.operation, BASE, inputs, PLACE, "title", "history")
        results = {
            BASE: self._result(plant_below, case.below),
            STAGE: self._result(plant, case.stage),
        }
        if case.rebuilt == "otherwise":
            results[BASE] = self._result(plant_below, NEW)._replace(key=results[BASE].key)
        elif case.rebuilt:
            rebuilt = BASE if case.rebuilt == "below" else STAGE
            results[rebuilt] = results[rebuilt]._replace(key="another step")
        context = open_context(self._context(case.files))
        given = step_keys.KeyInputs(
            case.platform,
            case.network,
            case.hosts,
            case.ulimits,
            case.capabilities,
            case.epoch,
            context,
            self.session,
            {},
        )
        remote = ()
        if isinstance(case.operation, Copy) and case.operation.is_remote:
            files = tuple(case.fetched for _ in case.operation.http)
            remote = Resolved(case.operation, files, tuple(case.commit for _ in case.operation.git)).key_parts()
        return step_keys.create_keys(step, results, given, remote)

    def missed(self, row: Row) -> tuple[bool, bool]:
        """Whether the definition key differs, and the content key."""
        one, other = self.keys(row.one), self.keys(row.other)
        assert one.content is not None
        assert other.content is not None
        return one.definition != other.definition, one.content() != other.content()

    def _context(self, change: Callable[[Path], object] | None) -> Path:
        if change not in self._contexts:
            root = self.top / f"context-{len(os.listdir(self.top))}"
            plant(root)
            if change is not None:
                change(root)
            self._contexts[change] = root
        return self._contexts[change]

    def _result(self, first: Callable[[Path], None], change: Callable[[Path], object] | None) -> StepResult:
        place = (first, change)
        if place not in self._results:
            active = self.session.snapshotter.prepare("step", None)
            first(active.path)
            if change is not None:
                change(active.path)
            layer = commit_layer(self.session.store, active)
            made = LayerResult(layer.diff_id, layer.chain_id, layer.descriptor)
            self._results[place] = StepResult(f"key {len(self._results)}", (made,))
        return self._results[place]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    made = Laboratory(tmp_path_factory.mktemp("keys"))
    for row in ROWS:
        # what a plain user may not change is one row's matter
        with contextlib.suppress(pytest.skip.Exception):
            made.missed(row)
    with made.session:
        # nothing but the store's claim is open from here on: a test must find no descriptor that it did not open
        yield made


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_row(laboratory: Laboratory, row: Row) -> None:
    assert laboratory.missed(row) == (row.definition, row.content)


def test_from() -> None:
    def key(name: str, platform: Platform, config: bytes) -> str:
        manifest = Manifest.create(Descriptor("c", sha256(config), len(config)), ())
        ref = BaseRef(name, platform, PLACE, name, name)
        return Base(ref, manifest.descriptor(), manifest, ImageConfig(architecture="amd64", os="linux")).result.key

    assert key("a:1", AMD64, b"x") == key("b:2", AMD64, b"x"), "the name is no part of it"
    assert key("a:1", AMD64, b"x") != key("a:1", ARM64, b"x")
    assert key("a:1", AMD64, b"x") != key("a:1", AMD64, b"y")


class TestMutations:
    """One part less in every key: some row that must miss hits."""

    def noticed(self, laboratory: Laboratory) -> bool:
        return any(laboratory.missed(row) != (row.definition, row.content) for row in ROWS)

    def test_every_part_of_every_key(self, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
        make = cache.keys.key
        noted: set[tuple[str, str]] = set()

        def note(domain: str, given: Any) -> Any:
            noted.update((domain, name) for name, _ in given)
            return make(domain, given)

        monkeypatch.setattr(cache.keys, "key", note)
        rows: dict[tuple[str, str], list[Row]] = {}
        for row in ROWS:
            noted.clear()
            keys = laboratory.keys(row.one)
            assert keys.content is not None
            keys.content()
            for part in noted:
                rows.setdefault(part, []).append(row)
        assert len(rows) > 60
        unnoticed = []
        for part, users in sorted(rows.items()):
            monkeypatch.setattr(cache.keys, "key", _without(make, part))
            if all(laboratory.missed(row) == row[3:] for row in users):
                unnoticed.append(part)
        assert unnoticed == []

    @pytest.mark.parametrize("field", cache.keys.KeyedMount._fields)
    def test_every_field_of_a_mount(self, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
        value = cache.keys._mount_value

        def mutated(mount: cache.keys.KeyedMount) -> Any:
            return {name: what for name, what in value(mount).items() if name != field}

        monkeypatch.setattr(cache.keys, "_mount_value", mutated)
        if field == "target":
            # it is in the name of the part as well
            monkeypatch.setattr(cache.keys, "key", _renamed(cache.keys.key, "mount "))
        assert self.noticed(laboratory)

    @pytest.mark.parametrize("field", cache.keys.StepInput._fields)
    def test_every_field_of_an_input(self, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
        make = step_keys.step_input
        monkeypatch.setattr(step_keys, "step_input", lambda result: make(result)._replace(**{field: ""}))
        assert self.noticed(laboratory)

    @pytest.mark.parametrize(("field", "constant"), [("digest", ""), ("name", None)])
    def test_every_field_of_a_source(
        self, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, field: str, constant: str | None
    ) -> None:
        make = copykeys.KeyedSource
        monkeypatch.setattr(
            copykeys, "KeyedSource", lambda digest, name: make(digest, name)._replace(**{field: constant})
        )
        assert self.noticed(laboratory)

    @pytest.mark.parametrize(
        "field", ["path", "kind", "permissions", "uid", "gid", "rdev", "names", "link", "xattrs", "bytes"]
    )
    def test_every_field_of_a_file(self, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
        frame = contenthash._frame_entry

        def mutated(entry: TreeEntry, content: Any, names: dict[tuple[int, int], bytes]) -> bytes:
            return frame(Blind(entry, field), _blinded(content, field), names)

        monkeypatch.setattr(contenthash, "_frame_entry", mutated)
        assert self.noticed(laboratory)

    def test_without_a_mutation_nothing_is_noticed(self, laboratory: Laboratory) -> None:
        assert not self.noticed(laboratory)


def _without(make: Callable[..., Any], part: tuple[str, str]) -> Callable[..., Any]:
    def mutated(domain: str, given: Any) -> Any:
        return make(domain, [pair for pair in given if (domain, pair[0]) != part])

    return mutated


def _renamed(make: Callable[..., Any], prefix: str) -> Callable[..., Any]:
    def mutated(domain: str, given: Any) -> Any:
        return make(domain, [(prefix if name.startswith(prefix) else name, value) for name, value in given])

    return mutated


def _blinded(content: contenthash.KnownFile | None, field: str) -> contenthash.KnownFile | None:
    if content is None:
        return None
    return contenthash.KnownFile(
        b"" if field == "bytes" else content.sha256, b"" if field == "xattrs" else content.xattrs
    )


class Blind:
    """A file as it is seen by somebody who does not see one thing of it."""

    def __init__(self, entry: TreeEntry, field: str) -> None:
        self._field = field
        self._entry = entry
        self.path = b"" if field == "path" else entry.path
        self.uid = 0 if field == "uid" else entry.uid
        self.gid = 0 if field == "gid" else entry.gid
        # what holds other bytes but as many is told by the bytes alone
        self.size = entry.size
        self.rdev = 0 if field == "rdev" else entry.rdev
        self.nlink = 1 if field == "names" else entry.nlink
        self.file_id = entry.file_id

    @property
    def mode(self) -> int:
        mode = self._entry.mode
        if self._field == "permissions":
            return stat.S_IFMT(mode)
        if self._field == "kind" and stat.S_ISBLK(mode):
            return stat.S_IFCHR | stat.S_IMODE(mode)
        return mode

    def readlink(self) -> bytes:
        return b"" if self._field == "link" else self._entry.readlink()

    def xattrs(self) -> tuple[tuple[bytes, bytes], ...]:
        return () if self._field == "xattrs" else self._entry.xattrs()
