"""COPY, ADD and WORKDIR into a fresh branch: the tree that results, as tables."""

import bz2
import gzip
import io
import lzma
import os
import socket
import stat
import tarfile
from pathlib import Path

import pytest
import zstandard

from builder.context import BuildContext
from builder.errors import BuildError, ContextError
from builder.graph import Copy, HttpSource, InlineFile, MakeDirectory
from builder.rootfs import open_root
from builder.stagefiles import StageFiles
from builder.steps import copy, copykeys, directory
from cache.keys import CONTENT, DEFINITION, StepInput
from harness.abilities import missing_for_owners
from layers.pack import write_changes, write_layer

OLD_NS = 1_000_000_000_123_456_789
OWNER = (3, 4) if missing_for_owners() is None else (0, 0)


def make(root, files):
    """``files``: path to content (bytes), link target (str), None or a mode for a directory."""
    root.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None or isinstance(content, int):
            place.mkdir(exist_ok=True)
            place.chmod(content or 0o755)
        elif isinstance(content, str):
            os.symlink(content, place)
        else:
            place.write_bytes(content)
            place.chmod(0o644)
    return root


def tree(root):
    """Paths of all there is in ``root``: content, ``-> target``, ``/`` for a directory, else the type."""
    found = {}
    for place in sorted(root.rglob("*")):
        path = str(place.relative_to(root))
        mode = place.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[path] = "-> " + os.readlink(place)
        elif stat.S_ISDIR(mode):
            found[path] = "/"
        elif stat.S_ISREG(mode):
            found[path] = place.read_bytes().decode("latin-1")
        else:
            found[path] = oct(stat.S_IFMT(mode))
    return found


def files(root):
    """``tree`` without the directories."""
    return {path: content for path, content in tree(root).items() if content != "/"}


def operation(*sources, to="/dest/", **options):
    return Copy(sources=tuple(f"/{source}" for source in sources), destination=to, from_step=None, **options)


def both(copied, tree, branches, upper):
    """The operation is applied to the fresh branch ``upper``; packed without a branch it gives the same layer."""
    drafted = outcome(lambda: packed(copied, tree, branches)) if copy.is_draftable(copied) else None
    fresh = not os.listdir(upper)
    applied = outcome(lambda: copy.apply(copied, tree, branches, upper))
    if drafted is not None and fresh:
        assert drafted == (applied or write_layer(upper, None, epoch=0)[:3])
    if applied is not None:
        raise applied.error


class Failure:
    """How an operation failed; equal when its kind and words are."""

    def __init__(self, error):
        self.error = error
        self.words = (type(error), str(error))

    def __eq__(self, other):
        return isinstance(other, Failure) and other.words == self.words

    __hash__ = None


def outcome(work):
    try:
        return work()
    except (BuildError, ContextError) as error:
        return Failure(error)


def packed(copied, tree, branches):
    with copy.draft(copied, tree, branches) as layer:
        return write_changes(layer.changes(), None, epoch=0)[:3]


class Stage:
    """A context, the branches below and the fresh one."""

    def __init__(self, path: Path) -> None:
        self.context = make(path / "context", {"a": b"A", "b": b"B", "d/x": b"X", "d/sub/y": b"Y", "d/l": "x"})
        self.base = make(path / "base", {})
        self.upper = path / "upper"
        self.upper.mkdir()

    def run(self, *sources, **options):
        both(operation(*sources, **options), BuildContext(self.context), [self.base], self.upper)
        return files(self.upper)

    def stat(self, path):
        return (self.upper / path).lstat()

    def owner(self, path):
        return self.stat(path).st_uid, self.stat(path).st_gid

    def mode(self, path):
        return oct(stat.S_IMODE(self.stat(path).st_mode))


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


D = {"x": "X", "sub/y": "Y", "l": "-> x"}


def under(prefix, found):
    return {f"{prefix}/{path}": content for path, content in found.items()}


@pytest.mark.parametrize(
    ("base", "sources", "to", "expected"),
    [
        ({}, ["a"], "/dest", {"dest": "A"}),
        ({}, ["a"], "/dest/", {"dest/a": "A"}),
        ({}, ["a"], "/", {"a": "A"}),
        ({}, ["a"], "/new/deep/dest", {"new/deep/dest": "A"}),
        ({"dest": None}, ["a"], "/dest", {"dest/a": "A"}),
        ({"dest": b"old"}, ["a"], "/dest", {"dest": "A"}),
        ({"dest/a": b"old"}, ["a"], "/dest/", {"dest/a": "A"}),
        ({"dest/a": "elsewhere"}, ["a"], "/dest/", {"dest/a": "A"}),
        ({}, ["a", "b"], "/dest/", {"dest/a": "A", "dest/b": "B"}),
        ({}, ["a", "b"], "/dest", {"dest": "B"}),
        ({}, ["[ab]"], "/dest/", {"dest/a": "A", "dest/b": "B"}),
        ({}, ["none*"], "/dest/", {}),
        ({}, ["d"], "/dest", under("dest", D)),
        ({}, ["d"], "/dest/", under("dest", D)),
        ({"dest/old": b"old"}, ["d"], "/dest", under("dest", D)),
        ({}, ["d"], "/", D),
        ({}, [""], "/dest", {"dest/a": "A", "dest/b": "B", **under("dest/d", D)}),
        ({}, ["d", "a"], "/dest/", {**under("dest", D), "dest/a": "A"}),
        ({}, ["d", "a"], "/dest", {**under("dest", D), "dest/a": "A"}),
        ({"dest": "real/place", "real/place": None}, ["a"], "/dest/", {"real/place/a": "A"}),
        ({"dest": "/real"}, ["a"], "/dest", {"real": "A"}),
        ({"dest": "/real", "real": None}, ["d"], "/dest", under("real", D)),
        ({"dest": "../../.."}, ["a"], "/dest/x", {"x": "A"}),
        ({"dest/x": "/etc/passwd"}, ["d"], "/dest", under("dest", D)),
        ({"etc": None, "to": "/etc"}, ["a"], "/to/../a", {"a": "A"}),
        ({"dest/sub/old": b"old"}, ["d/sub"], "/dest/sub", {"dest/sub/y": "Y"}),
    ],
)
def test_destinations(stage, base, sources, to, expected):
    make(stage.base, base)
    assert stage.run(*sources, to=to) == expected


@pytest.mark.parametrize(
    ("base", "sources", "to", "message"),
    [
        ({"dest": b"f"}, ["d"], "/dest", "cannot copy to '/dest': '/dest' is not a directory"),
        ({"dest": b"f"}, ["a"], "/dest/", "cannot copy to '/dest/': '/dest' is not a directory"),
        ({"dest": b"f"}, ["a"], "/dest/x/y", "cannot copy to '/dest/x/y': '/dest' is not a directory"),
        ({"dest/sub": b"f"}, ["d"], "/dest", "cannot copy to '/dest': '/dest/sub' is not a directory"),
        ({"dest/sub": "elsewhere"}, ["d"], "/dest", "cannot copy to '/dest': '/dest/sub' is not a directory"),
        ({"dest/a": None}, ["a"], "/dest/", "cannot copy to '/dest/': '/dest/a' is a directory, not a file"),
        ({"dest/x/f": b""}, ["d"], "/dest", "cannot copy to '/dest': '/dest/x' is a directory, not a file"),
        (
            {"loop": "loop"},
            ["a"],
            "/loop/",
            "cannot copy from the build context to '/loop/': too many levels of symbolic links (/loop)",
        ),
    ],
)
def test_refused(stage, base, sources, to, message):
    make(stage.base, base)
    with pytest.raises(BuildError) as caught:
        stage.run(*sources, to=to)
    assert caught.value.message == message


def test_sources_of_one_copy_meet(stage):
    make(stage.context, {"e/sub": b"file", "f/x/z": b"", "g/l": b"L"})
    with pytest.raises(BuildError, match="'/dest/sub' is a directory, not a file"):
        stage.run("d", "e")
    with pytest.raises(BuildError, match="'/other/x' is not a directory"):
        stage.run("d", "f", to="/other/")
    assert stage.run("d", "g", to="/third/")["third/l"] == "L"


class TestMetadata:
    def test_of_files(self, stage):
        (stage.context / "a").chmod(0o4751)
        os.utime(stage.context / "a", ns=(OLD_NS, OLD_NS))
        os.chown(stage.context / "a", 5, 6)
        (stage.context / "a").chmod(0o4751)
        stage.run("a")
        assert stage.mode("dest/a") == "0o4751"
        assert stage.owner("dest/a") == (0, 0)
        assert stage.stat("dest/a").st_mtime_ns == OLD_NS

    @pytest.mark.owners("gives files away")
    def test_of_new_destination_directories(self, stage):
        (stage.context / "d").chmod(0o700)
        stage.run("d", to="/one/two", chown="7:8", chmod="600")
        assert (stage.mode("one"), stage.owner("one")) == ("0o755", (7, 8))
        assert (stage.mode("one/two"), stage.owner("one/two")) == ("0o755", (7, 8))
        assert stage.mode("one/two/sub") == "0o600"

    def test_of_an_existing_destination(self, stage):
        make(stage.base, {"dest": 0o711})
        os.chown(stage.base / "dest", 3, 4)
        os.setxattr(stage.base / "dest", "user.x", b"1")
        stage.run("d", chown="7:8")
        assert (stage.mode("dest"), stage.owner("dest")) == ("0o711", (3, 4))
        assert os.getxattr(stage.upper / "dest", "user.x") == b"1"

    @pytest.mark.parametrize("base", [{}, {"dest": 0o711}, {"dest/x": b"old"}])
    @pytest.mark.parametrize("sources", [("d",), ("a", "d"), ("d", "a")])
    def test_time_of_the_destination_of_a_directory(self, stage, base, sources):
        make(stage.base, base)
        os.utime(stage.context / "d", ns=(OLD_NS, OLD_NS))
        copied = operation(*sources)
        copy.apply(copied, BuildContext(stage.context), [stage.base], stage.upper)
        assert stage.stat("dest").st_mtime_ns == OLD_NS
        with copy.draft(copied, BuildContext(stage.context), [stage.base]) as layer:
            assert {change.path: change.stat.st_mtime_ns for change in layer.changes()}[b"dest"] == OLD_NS

    def test_of_existing_directories_below(self, stage):
        make(stage.base, {"dest/sub": 0o711})
        os.chown(stage.base / "dest/sub", 3, 4)
        (stage.context / "d/sub").chmod(0o2750)
        os.utime(stage.context / "d/sub", ns=(OLD_NS, OLD_NS))
        stage.run("d")
        assert (stage.mode("dest/sub"), stage.owner("dest/sub")) == ("0o2750", (0, 0))
        assert stage.stat("dest/sub").st_mtime_ns == OLD_NS

    def test_of_directories_on_the_way(self, stage):
        make(stage.base, {"usr/local/bin": 0o751})
        for path in ("usr", "usr/local", "usr/local/bin"):
            os.utime(stage.base / path, ns=(OLD_NS, OLD_NS))
        os.chown(stage.base / "usr/local", 3, 4)
        stage.run("a", to="/usr/local/bin/")
        assert stage.stat("usr").st_mtime_ns == OLD_NS
        assert stage.stat("usr/local").st_mtime_ns == OLD_NS
        assert stage.owner("usr/local") == (3, 4)
        assert stage.stat("usr/local/bin").st_mtime_ns > OLD_NS
        assert stage.mode("usr/local/bin") == "0o751"

    @pytest.mark.owners("gives files away")
    def test_of_links(self, stage):
        os.utime(stage.context / "d/l", ns=(OLD_NS, OLD_NS), follow_symlinks=False)
        stage.run("d", chown="7:8", chmod="000")
        assert stage.owner("dest/l") == (7, 8)
        assert stage.stat("dest/l").st_mtime_ns == OLD_NS

    def test_attributes(self, stage):
        capability = bytes.fromhex("0100000200040000000000000000000000000000")
        os.setxattr(stage.context / "a", "user.x", b"1")
        os.setxattr(stage.context / "a", "security.capability", capability)
        os.setxattr(stage.context / "a", "security.other", b"1")
        os.setxattr(stage.context / "a", "trusted.overlay.opaque", b"y")
        os.setxattr(stage.context / "d/sub", "user.y", b"2")
        stage.run("a", "d", chown="5")
        assert sorted(os.listxattr(stage.upper / "dest/a")) == ["security.capability", "user.x"]
        assert os.getxattr(stage.upper / "dest/a", "security.capability") == capability
        assert os.getxattr(stage.upper / "dest/sub", "user.y") == b"2"

    @pytest.mark.parametrize(
        ("chmod", "file", "below"),
        [
            ("600", "0o600", "0o600"),
            ("u=rwX,go=rX", "0o644", "0o755"),
            ("+x", "0o755", "0o755"),
            ("", "0o644", "0o755"),
        ],
    )
    def test_chmod(self, stage, chmod, file, below):
        stage.run("d", chmod=chmod)
        assert (stage.mode("dest/x"), stage.mode("dest/sub")) == (file, below)

    @pytest.mark.parametrize(
        ("chown", "owner"),
        [
            ("55", (55, 55)),
            ("55:66", (55, 66)),
            ("app", (5, 6)),
            ("app:wheel", (5, 10)),
            ("app:0", (5, 0)),
            ("1:wheel", (1, 10)),
        ],
    )
    @pytest.mark.owners("gives files away")
    def test_chown(self, stage, chown, owner):
        make(stage.base, {"etc/passwd": b"app:x:5:6::/:\n", "etc/group": b"wheel:x:10:\n"})
        stage.run("d", chown=chown)
        for path in ("dest", "dest/x", "dest/sub", "dest/l"):
            assert stage.owner(path) == owner

    def test_chown_unknown(self, stage):
        with pytest.raises(BuildError, match="--chown=nobody: user 'nobody' is not in /etc/passwd of the image"):
            stage.run("a", chown="nobody")


class TestKinds:
    def test_hard_links_stay_hard_links(self, stage):
        os.link(stage.context / "d/x", stage.context / "d/sub/x2")
        stage.run("d")
        assert stage.stat("dest/x").st_ino == stage.stat("dest/sub/x2").st_ino
        assert stage.stat("dest/x").st_nlink == 2

    def test_of_a_name_outside_the_selection_only_one_is_there(self, stage):
        os.link(stage.context / "d/x", stage.context / "outside")
        stage.run("d")
        assert stage.stat("dest/x").st_nlink == 1

    def test_devices_and_fifos(self, stage):
        os.mkfifo(stage.context / "d/fifo", 0o640)
        os.mknod(stage.context / "d/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(stage.context / "d/disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
        found = stage.run("d", chown="3:4")
        assert (found["dest/fifo"], found["dest/null"]) == (oct(stat.S_IFIFO), oct(stat.S_IFCHR))
        assert stage.stat("dest/null").st_rdev == os.makedev(1, 3)
        assert stage.stat("dest/disk").st_rdev == os.makedev(7, 0)
        assert stage.owner("dest/fifo") == (3, 4)

    def test_a_socket_becomes_an_empty_file(self, stage):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(stage.context / "d/socket"))
            (stage.context / "d/socket").chmod(0o700)
            assert stage.run("d")["dest/socket"] == ""
        assert stage.mode("dest/socket") == "0o700"

    def test_holes_stay_holes(self, stage):
        with open(stage.context / "a", "wb") as file:
            file.write(b"begin")
            file.seek(20 << 20)
            file.write(b"middle")
            file.truncate(40 << 20)
        stage.run("a")
        assert (stage.upper / "dest/a").read_bytes() == (stage.context / "a").read_bytes()
        assert stage.stat("dest/a").st_blocks * 512 < 1 << 20

    @pytest.mark.parametrize("size", [0, 1, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, (3 << 20) + 7])
    def test_sizes(self, stage, size):
        (stage.context / "a").write_bytes(os.urandom(size))
        stage.run("a")
        assert (stage.upper / "dest/a").read_bytes() == (stage.context / "a").read_bytes()

    @pytest.mark.parametrize("name", [".wh.a", ".wh..wh..opq"])
    def test_names_of_whiteouts_are_refused(self, stage, name):
        (stage.context / "d" / name).touch()
        with pytest.raises(BuildError, match="is reserved"):
            stage.run("d")

    def test_a_whiteout_device_is_refused(self, stage):
        os.mknod(stage.context / "d/w", stat.S_IFCHR | 0o600, 0)
        with pytest.raises(BuildError, match="mark of union file systems"):
            stage.run("d")

    def test_names_that_are_not_utf8(self, stage):
        with open(os.fsencode(stage.context) + b"/d/\xff", "wb"):
            pass
        stage.run("d")
        assert b"\xff" in os.listdir(os.fsencode(stage.upper) + b"/dest")

    def test_many_names_beside_existing_ones(self, stage):
        make(stage.base, {f"dest/f{number:03}": b"old" for number in range(0, 200, 2)})
        make(stage.context, {f"many/f{number:03}": b"new" for number in range(200)})
        assert set(stage.run("many").values()) == {"new"}
        make(stage.base, {"dest/z": None})
        make(stage.context, {"many/z": b"file"})
        with pytest.raises(BuildError, match="'/dest/z' is a directory"):
            stage.run("many")


def test_what_a_lower_whiteout_hides_stays_hidden(stage, tmp_path):
    make(stage.base, {"app/secret": b"s", "app/sub/secret": b"s"})
    middle = make(tmp_path / "middle", {".wh.app": b""})
    both(operation("d", to="/app"), BuildContext(stage.context), [middle, stage.base], stage.upper)
    with open_root([stage.upper, middle, stage.base]) as root:
        assert [entry.path for entry in root.walk(b"app")] == [b"l", b"sub", b"sub/y", b"x"]


def test_on_scratch(stage):
    both(operation("d", "a", to="/x/"), BuildContext(stage.context), [], stage.upper)
    assert files(stage.upper) == {**under("x", D), "x/a": "A"}


def test_link_follows_no_link_of_the_target(stage):
    make(stage.base, {"dest": "/real", "real": 0o711})
    assert stage.run("a", link=True) == {"dest/a": "A"}
    assert stage.mode("dest") == "0o755"


def test_parents(stage):
    (stage.context / "d").chmod(0o750)
    assert stage.run("d/sub/y", "a", parents=True) == {"dest/d/sub/y": "Y", "dest/a": "A"}
    assert stage.mode("dest/d") == "0o750"
    assert stage.run("d/./sub", to="/two", parents=True)["two/sub/y"] == "Y"


def test_exclude(stage):
    assert stage.run("d", excludes=("sub", "l")) == {"dest/x": "X"}


def test_inline_files(stage):
    inline = (InlineFile("one", "1\n"), InlineFile("two", "é\n"))
    assert stage.run("a", inline=inline) == {"dest/a": "A", "dest/one": "1\n", "dest/two": "Ã©\n"}
    assert stage.mode("dest/one") == "0o644"
    assert stage.run(to="/file", inline=inline[:1], chmod="+x")["file"] == "1\n"
    assert stage.mode("file") == "0o755"


@pytest.mark.owners("gives files away")
def test_owner_of_inline_files(stage):
    stage.run(to="/file", inline=(InlineFile("one", "1\n"),), chown="3")
    assert stage.owner("file") == (3, 3)


def test_a_file_that_cannot_be_read_is_named(stage, monkeypatch):
    def refuse(_entry):
        raise PermissionError(13, "Permission denied", "/somewhere/context/d/x")

    monkeypatch.setattr("cache.hosttree.HostEntry.open", refuse)
    with pytest.raises(ContextError, match="'/somewhere/context/d/x' in the build context can't be read"):
        stage.run("d")


def test_check_ends_the_work(stage):
    def check():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy.apply(operation("d"), BuildContext(stage.context), [], stage.upper, check=check)


def test_no_descriptor_is_left(stage):
    make(stage.base, {"dest/sub": b"f"})
    before = os.listdir("/proc/self/fd")
    with pytest.raises(BuildError):
        stage.run("d")
    stage.run("d", to="/other")
    assert os.listdir("/proc/self/fd") == before


def test_remote_sources_must_have_been_fetched(stage):
    with pytest.raises(ValueError, match="not fetched"):
        stage.run(http=(HttpSource("http://example.com/x", "x", ""),))


class TestFromAnotherStep:
    def run(self, stage, *sources, **options):
        with open_root([stage.context]) as root:
            both(operation(*sources, **options), StageFiles(root), [stage.base], stage.upper)
        return files(stage.upper)

    def test_content_owners_times_links(self, stage):
        os.chown(stage.context / "d/x", 5, 6)
        os.chown(stage.context / "d/sub", 7, 8)
        os.utime(stage.context / "d/x", ns=(OLD_NS, OLD_NS))
        os.setxattr(stage.context / "d/x", "user.x", b"1")
        os.link(stage.context / "d/x", stage.context / "d/x2")
        assert self.run(stage, "d") == under("dest", {**D, "x2": "X"})
        assert (stage.owner("dest/x"), stage.owner("dest/sub"), stage.owner("dest")) == ((5, 6), (7, 8), (0, 0))
        assert stage.stat("dest/x").st_mtime_ns == OLD_NS
        assert stage.stat("dest/x").st_ino == stage.stat("dest/x2").st_ino
        assert os.getxattr(stage.upper / "dest/x", "user.x") == b"1"

    @pytest.mark.owners("gives files away")
    def test_chown(self, stage):
        self.run(stage, "d", chown="1:2")
        assert stage.owner("dest/x") == (1, 2)

    def test_links_are_followed_in_the_source_root(self, stage):
        make(stage.context, {"abs": "/d/x", "dirlink": "/d"})
        assert self.run(stage, "abs", "dirlink/sub/y") == {"dest/abs": "X", "dest/y": "Y"}

    def test_wildcards(self, stage):
        assert self.run(stage, "[ab]") == {"dest/a": "A", "dest/b": "B"}

    def test_missing(self, stage):
        with pytest.raises(ContextError) as caught:
            self.run(stage, "d/z")
        assert caught.value.message == "source 'd/z' does not exist in the files it is copied from"
        assert caught.value.hints == ()
        with pytest.raises(ContextError) as caught:
            self.run(stage, "dd/sub")
        with pytest.raises(ContextError) as caught:
            self.run(stage, "d/sib")
        assert caught.value.hints == ("did you mean '/d/sub'?",)

    def test_whiteouts_of_the_source_hide(self, stage, tmp_path):
        top = make(tmp_path / "top", {"d/.wh.x": b"", "d/new": b"N"})
        with open_root([top, stage.context]) as root:
            both(operation("d"), StageFiles(root), [], stage.upper)
        assert files(stage.upper) == {"dest/l": "-> x", "dest/new": "N", "dest/sub/y": "Y"}

    def test_an_empty_stage(self, stage):
        with pytest.raises(ContextError, match="'a' does not exist"):
            both(operation("a"), StageFiles(None), [], stage.upper)
        both(operation(""), StageFiles(None), [], stage.upper)
        assert tree(stage.upper) == {"dest": "/"}
        assert copykeys.keyed_sources(operation(""), StageFiles(None)) == copykeys.keyed_sources(
            operation("e"), BuildContext(make(stage.context, {"e": None}))
        )


def archive(*members):
    """A tar; each member is (name, content or None or TarInfo fields)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content, *fields in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if content is None else 0o640
            info.mtime = 1_000_000_000
            info.uid, info.gid = OWNER
            if content is None:
                info.type = tarfile.DIRTYPE
            for field in fields:
                for key, value in field.items():
                    setattr(info, key, value)
            data = content if isinstance(content, bytes) else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def link(target, kind=tarfile.SYMTYPE):
    return {"type": kind, "linkname": target}


SIMPLE = archive(("p", None), ("p/f", b"F"), ("p/l", b"", link("f")), ("p/h", b"", link("p/f", tarfile.LNKTYPE)))
UNPACKED = {"p/f": "F", "p/l": "-> f", "p/h": "F"}


class TestArchives:
    def run(self, stage, content, **options):
        make(stage.context, {"x.tar": content})
        return stage.run("x.tar", unpack=True, **options)

    @pytest.mark.parametrize(
        "compress",
        [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
        ids=["plain", "gzip", "bzip2", "xz", "zstd"],
    )
    @pytest.mark.parametrize("to", ["/dest", "/dest/"])
    def test_known_by_content(self, stage, compress, to):
        assert self.run(stage, compress(SIMPLE), to=to) == under("dest", UNPACKED)

    @pytest.mark.parametrize(
        "content",
        [b"", b"text", gzip.compress(b"text"), SIMPLE[:300], archive(), b"\x1f\x8bno gzip", b"BZhno", b"\0" * 2048],
    )
    def test_anything_else_is_copied(self, stage, content):
        assert self.run(stage, content) == {"dest/x.tar": content.decode("latin-1")}

    def test_copy_does_not_unpack(self, stage):
        make(stage.context, {"x.tar": SIMPLE})
        assert list(stage.run("x.tar")) == ["dest/x.tar"]

    def test_directories_of_archives_are_not_unpacked(self, stage):
        make(stage.context, {"e/x.tar": SIMPLE})
        assert list(stage.run("e", unpack=True)) == ["dest/x.tar"]

    @pytest.mark.owners("gives files away")
    def test_metadata(self, stage):
        self.run(stage, SIMPLE)
        assert (stage.owner("dest/p/f"), stage.mode("dest/p/f")) == ((3, 4), "0o640")
        assert stage.stat("dest/p").st_mtime == 1_000_000_000
        assert stage.stat("dest/p/f").st_ino == stage.stat("dest/p/h").st_ino
        assert (stage.owner("dest"), stage.mode("dest")) == ((0, 0), "0o755")

    def test_the_destination_keeps_its_metadata(self, stage):
        self.run(stage, archive(("./", None, {"mode": 0o700}), ("./f", b"F")))
        assert (stage.owner("dest"), stage.mode("dest")) == ((0, 0), "0o755")

    @pytest.mark.owners("gives files away")
    def test_chown(self, stage):
        self.run(stage, SIMPLE, chown="8:9")
        assert {stage.owner(path) for path in ("dest", "dest/p", "dest/p/f", "dest/p/l")} == {(8, 9)}
        self.run(stage, archive(("q/f", b"F")), chown="8:9")
        assert (stage.owner("dest/q"), stage.owner("dest/q/f")) == ((0, 0), (8, 9))

    def test_missing_parents(self, stage):
        assert self.run(stage, archive(("p/q/f", b"F"))) == {"dest/p/q/f": "F"}
        assert (stage.mode("dest/p"), stage.owner("dest/p")) == ("0o755", (0, 0))

    def test_into_what_is_there(self, stage):
        make(stage.base, {"dest/p/old": b"old", "dest/p/f": b"old", "lib": "usr/lib", "usr/lib/old": b"old"})
        assert self.run(stage, SIMPLE) == under("dest", UNPACKED)
        found = self.run(stage, archive(("lib/new", b"N")), to="/")
        assert found["usr/lib/new"] == "N"
        assert "lib/new" not in found

    def test_special_files(self, stage):
        members = (
            ("fifo", b"", {"type": tarfile.FIFOTYPE}),
            ("null", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
            ("x", b"X", {"pax_headers": {"SCHILY.xattr.user.a": "1"}}),
        )
        assert self.run(stage, archive(*members)) == {"dest/x": "X"}
        assert os.getxattr(stage.upper / "dest/x", "user.a") == b"1"

    @pytest.mark.parametrize(
        ("members", "expected"),
        [
            ([("../../up", b"U")], None),
            ([("p/../../up", b"U")], None),
            ([("p/../up", b"U")], {"dest/up": "U"}),
            ([("/abs", b"A")], {"dest/abs": "A"}),
            ([("e", b"", link("/")), ("e/f", b"F")], {"dest/e": "-> /", "dest/f": "F"}),
            ([("e", b"", link("../../..")), ("e/f", b"F")], {"dest/e": "-> ../../..", "dest/f": "F"}),
            ([("e", b"", link("/etc")), ("e/f", b"F")], {"dest/e": "-> /etc", "dest/etc/f": "F"}),
            ([("f", b"1"), ("f", b"2")], {"dest/f": "2"}),
            ([("f", b"1"), ("f", b"", link("x"))], {"dest/f": "-> x"}),
            ([("f", b"", link("/etc/passwd")), ("f", b"F")], {"dest/f": "F"}),
            ([("p/f", b"1"), ("p", b"2")], {"dest/p": "2"}),
            ([("p/f", b"1"), ("p", b"2"), ("p/g", b"3", {})], None),
            ([("p", b"1"), ("p", None), ("p/g", b"3")], {"dest/p/g": "3", "dest/p/.wh..wh..opq": ""}),
            ([("a", b"1"), ("b", b"", link("a", tarfile.LNKTYPE))], {"dest/a": "1", "dest/b": "1"}),
            ([("b", b"", link("none", tarfile.LNKTYPE))], None),
            ([("b", b"", link("../../../etc/passwd", tarfile.LNKTYPE))], None),
            ([(".wh.x", b"")], None),
        ],
    )
    def test_confined(self, stage, tmp_path, members, expected):
        outside = files(tmp_path)
        if expected is None:
            with pytest.raises(BuildError):
                self.run(stage, archive(*members))
        else:
            assert self.run(stage, archive(*members)) == expected
        after = files(tmp_path)
        changed = {path for path in after.keys() | outside.keys() if after.get(path) != outside.get(path)}
        assert all(path.startswith(("upper/", "context/x.tar")) for path in changed)

    def test_hard_link_to_a_file_below(self, stage):
        make(stage.base, {"dest/old": b"old"})
        os.chown(stage.base / "dest/old", 5, 6)
        assert self.run(stage, archive(("new", b"", link("old", tarfile.LNKTYPE)))) == {
            "dest/old": "old",
            "dest/new": "old",
        }
        assert stage.stat("dest/old").st_ino == stage.stat("dest/new").st_ino
        assert stage.owner("dest/new") == (5, 6)

    def test_a_file_over_a_directory_below(self, stage):
        make(stage.base, {"dest/p/f": b"old"})
        assert self.run(stage, archive(("p", b"file"))) == {"dest/p": "file"}

    def test_a_directory_over_a_file_over_a_directory_below_is_empty(self, stage):
        make(stage.base, {"dest/p/f": b"old"})
        self.run(stage, archive(("p", b"file"), ("p", None)))
        with open_root([stage.upper, stage.base]) as root:
            assert root.names(b"dest/p") == []

    def test_a_directory_over_a_link_below(self, stage):
        make(stage.base, {"dest/p": "/elsewhere"})
        assert self.run(stage, archive(("p", None), ("p/f", b"F")))["dest/p/f"] == "F"
        with open_root([stage.upper, stage.base]) as root:
            assert root.names(b"dest/p") == [b"f"]

    def test_cut_off(self, stage):
        content = archive(("f", os.urandom(100_000)))
        with pytest.raises(BuildError, match="cannot unpack to '/dest/'"):
            self.run(stage, content[:50_000])


class TestWorkdir:
    def run(self, stage, path, user="", branches=None):
        directory.apply(MakeDirectory(path, user), [stage.base] if branches is None else branches, stage.upper)

    @pytest.mark.owners("gives files away")
    def test_new(self, stage):
        make(stage.base, {"etc/passwd": b"app:x:5:6::/:\n"})
        self.run(stage, "/srv/app", "app")
        assert (stage.mode("srv"), stage.owner("srv"), stage.owner("srv/app")) == ("0o755", (5, 6), (5, 6))

    def test_existing(self, stage):
        make(stage.base, {"srv/app": 0o700})
        self.run(stage, "/srv/app", "5")
        assert tree(stage.upper) == {}

    def test_existing_parent(self, stage):
        make(stage.base, {"srv/app": 0o700})
        os.chown(stage.base / "srv/app", 3, 4)
        os.utime(stage.base / "srv", ns=(OLD_NS, OLD_NS))
        self.run(stage, "/srv/app/new", "5")
        assert (stage.mode("srv/app"), stage.owner("srv/app")) == ("0o700", (3, 4))
        assert stage.stat("srv").st_mtime_ns == OLD_NS

    @pytest.mark.owners("gives files away")
    def test_numbers_and_scratch(self, stage):
        self.run(stage, "/a/b", "5", [])
        self.run(stage, "/c", "5:6", [])
        assert (stage.owner("a/b"), stage.owner("c")) == ((5, 5), (5, 6))

    def test_links(self, stage):
        make(stage.base, {"srv": "/var/srv"})
        self.run(stage, "/srv/app")
        assert tree(stage.upper) == {"var": "/", "var/srv": "/", "var/srv/app": "/"}

    @pytest.mark.parametrize(
        ("path", "user", "message"),
        [
            ("/file/x", "", "WORKDIR '/file/x' can't be made: '/file' is not a directory"),
            ("/file", "", "WORKDIR '/file' can't be made: '/file' is not a directory"),
            ("/x", "nobody", "WORKDIR '/x': user 'nobody' is not in /etc/passwd of the image"),
            ("/loop/x", "", "WORKDIR '/loop/x' can't be made: too many levels of symbolic links (/loop/x)"),
        ],
    )
    def test_refused(self, stage, path, user, message):
        make(stage.base, {"file": b"", "loop": "loop"})
        with pytest.raises(BuildError) as caught:
            self.run(stage, path, user)
        assert caught.value.message == message


class TestKeys:
    PARENT = StepInput("k", "sha256:1")

    def key(self, stage, *sources, branches=None, strength=CONTENT, **options):
        made = operation(*sources, **options)
        found = copykeys.keyed_sources(made, BuildContext(stage.context))
        chosen = [stage.base] if branches is None else branches
        target = copykeys.look_at(made, chosen)
        return copykeys.key(strength, made, parent=self.PARENT, sources=found, target=target)

    @pytest.mark.parametrize(
        "options",
        [
            {"to": "/other/"}, {"chown": "1"}, {"chmod": "600"}, {"link": True}, {"parents": True}, {"unpack": True},
            {"inline": (InlineFile("a", "x"),)}, {"excludes": ("x",)},
        ],
    )  # fmt: skip
    def test_what_counts(self, stage, options):
        assert self.key(stage, "d") != self.key(stage, "d", **options)

    def test_sources_count_by_content(self, stage):
        one = self.key(stage, "d")
        (stage.context / "d").rename(stage.context / "e")
        assert self.key(stage, "e") == one
        os.utime(stage.context / "e/x", (1, 1))
        assert self.key(stage, "e") == one
        (stage.context / "e/x").write_bytes(b"Z")
        assert self.key(stage, "e") != one

    @pytest.mark.parametrize(
        ("base", "to", "counts"),
        [
            ({}, "/dest/", True),
            ({}, "/dest", False),
            ({"dest": b""}, "/dest", False),
            ({"dest": None}, "/dest", True),
            ({"dest": "x"}, "/dest", True),
            ({"up": "x"}, "/up/dest", True),
            ({}, "/", True),
        ],
    )
    def test_the_name_of_one_file(self, stage, base, to, counts):
        make(stage.base, base)
        (stage.context / "b").write_bytes(b"A")
        assert (self.key(stage, "a", to=to) != self.key(stage, "b", to=to)) is counts

    def test_names_of_several_files_count(self, stage):
        (stage.context / "b").write_bytes(b"A")
        (stage.context / "c").write_bytes(b"A")
        assert self.key(stage, "[ab]") != self.key(stage, "[ac]")

    def test_kept_paths_count(self, stage):
        make(stage.context, {"e/sub/y": b"Y"})
        one = self.key(stage, "d/./sub/y", parents=True)
        assert one != self.key(stage, "d/sub/y", parents=True)
        (stage.context / "d/sub").chmod(0o700)
        assert one != self.key(stage, "d/./sub/y", parents=True)

    def test_who_a_name_is_counts(self, stage):
        make(stage.base, {"etc/passwd": b"app:x:5:6::/:\n"})
        one = self.key(stage, "a", chown="app", link=True)
        number = self.key(stage, "a", chown="5", link=True)
        on_parent = self.key(stage, "a", chown="app")
        (stage.base / "etc/passwd").write_bytes(b"app:x:6:6::/:\n")
        assert self.key(stage, "a", chown="app", link=True) != one
        assert self.key(stage, "a", chown="5", link=True) == number
        assert self.key(stage, "a", chown="app") == on_parent, "other files below are another parent"

    def test_link_is_independent_of_the_parent(self, stage):
        made = operation("a", link=True)
        found = copykeys.keyed_sources(made, BuildContext(stage.context))
        keys = {
            copykeys.key(CONTENT, made, parent=StepInput("", chain), sources=found, target=copykeys.GUESSES[0])
            for chain in ("sha256:1", "sha256:2")
        }
        assert len(keys) == 1

    def test_definition_by_step(self, stage):
        def made(sources, **options):
            one = operation(*sources, **options)
            origin = StepInput("origin", "sha256:9")
            return copykeys.key(DEFINITION, one, parent=self.PARENT, sources=[origin], target=copykeys.GUESSES[0])

        assert made(["a"]) == made(["a"])
        assert made(["a"]) != made(["b"])
        assert made(["a"]) != made(["a"], excludes=("x",))

    def test_the_same_files_of_a_step_and_of_the_context_have_one_hash(self, stage):
        made = operation("d", "a")
        with open_root([stage.context]) as root:
            by_step = copykeys.keyed_sources(made, StageFiles(root))
        assert by_step == copykeys.keyed_sources(made, BuildContext(stage.context))
        os.chown(stage.context / "a", 1, 1)
        with open_root([stage.context]) as root:
            assert copykeys.keyed_sources(made, StageFiles(root)) != by_step

    def test_missing(self, stage):
        with pytest.raises(ContextError, match="'none' does not exist"):
            self.key(stage, "none")
