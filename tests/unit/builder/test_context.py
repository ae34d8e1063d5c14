"""What COPY sees of the build context."""

import os

import pytest

from builder.context import BuildContext, open_context
from builder.errors import ContextError
from builder.graph import Copy
from builder.selection import entries_below, kept_directories, select

TREE = {
    "Dockerfile": b"FROM scratch",
    "app.py": b"app",
    "readme.md": b"readme",
    "requirements.txt": b"",
    "src/main.c": b"main",
    "src/util.c": b"util",
    "src/util.h": b"util",
    "src/deep/er/x.c": b"x",
    "docs/a.md": b"a",
    "docs/b.txt": b"b",
    "empty": None,
    "link.py": "app.py",
    "linkdir": "src",
    "abslink": "/src/main.c",
    "outside": "../../../../../../etc/passwd",
    "dangling": "none",
    "loop": "loop",
    "we[i]rd": b"w",
    "back\\slash": b"b",
}


@pytest.fixture
def directory(tmp_path):
    root = tmp_path / "context"
    for path, content in TREE.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.mkdir()
        elif isinstance(content, str):
            os.symlink(content, place)
        else:
            place.write_bytes(content)
    (tmp_path / "etc").mkdir()
    return root


def copy(*sources, **options):
    return Copy(sources=tuple(f"/{source}" for source in sources), destination="/x/", from_step=None, **options)


def chosen(tree, operation):
    """Everything selected: name or kept path, and below directories the paths."""
    found = []
    for selected in select(tree, operation):
        found.append(os.fsdecode(selected.kept or selected.name) + ("/" if selected.is_directory else ""))
        if selected.is_directory:
            found += [os.fsdecode(b" " + entry.path) for entry in entries_below(tree, selected, operation)]
    return found


DANGLING = "'dangling' is a symbolic link to 'none', which is not there"
OUTSIDE = "'outside' is a symbolic link to '../../../../../../etc/passwd', which is not there"
SRC = ["src/", " deep", " deep/er", " deep/er/x.c", " main.c", " util.c", " util.h"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["app.py"], ["app.py"]),
        (["src"], SRC),
        (["src/main.c", "app.py"], ["main.c", "app.py"]),
        (["../../app.py"], ["app.py"]),
        (["src/../app.py"], ["app.py"]),
        (["*.md"], ["readme.md"]),
        (["*.none"], []),
        (["*/none"], []),
        (["src/*.c"], ["main.c", "util.c"]),
        (["src/util.?"], ["util.c", "util.h"]),
        (["src/[m-n]ain.c"], ["main.c"]),
        (["s*"], SRC),
        (["*/*.md"], ["a.md"]),
        (["*/main.c"], ["main.c"]),
        (["linkdir/*.h"], ["util.h"]),
        (["linkdir"], ["linkdir/", *SRC[1:]]),
        (["link.py"], ["link.py"]),
        (["link.*"], ["link.py"]),
        (["abslink"], ["abslink"]),
        (["linkdir/util.c"], ["util.c"]),
        (["empty"], ["empty/"]),
        (["we[[]i]rd"], ["we[i]rd"]),
        (["back\\slash"], ["back\\slash"]),
        (["app\\.py"], ["app.py"]),
    ],
)
def test_select(directory, sources, expected):
    assert chosen(BuildContext(directory), copy(*sources)) == expected


def test_the_whole_context(directory):
    (selected,) = select(BuildContext(directory), copy(""))
    assert (selected.name, selected.place, selected.is_directory) == (b"", b"", True)
    paths = [entry.path for entry in entries_below(BuildContext(directory), selected, copy(""))]
    assert paths == sorted(paths, key=lambda path: path.split(b"/"))
    assert b"src/deep/er/x.c" in paths
    assert b"linkdir" in paths


def test_followed_links_lead_to_the_file(directory):
    (selected,) = select(BuildContext(directory), copy("abslink"))
    assert selected.place == b"src/main.c"
    with open(selected.entry.open(), "rb") as file:
        assert file.read() == b"main"


def test_files_count_as_roots(directory):
    os.chown(directory / "app.py", 12, 34)
    (selected,) = select(BuildContext(directory), copy("app.py"))
    assert (selected.entry.uid, selected.entry.gid) == (0, 0)


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("app.pi", "source 'app.pi' does not exist in the build context", "did you mean 'app.py'?"),
        ("src/mian.c", "source 'src/mian.c' does not exist in the build context", "did you mean 'src/main.c'?"),
        ("nothing-like-it", "source 'nothing-like-it' does not exist in the build context", None),
        ("app.py/x", "source 'app.py/x' does not exist in the build context", None),
        ("dangling", "source 'dangling' does not exist in the build context", DANGLING),
        ("outside", "source 'outside' does not exist in the build context", OUTSIDE),
        ("loop", "source 'loop' in the build context: Too many levels of symbolic links", None),
        ("dang*", "source 'dang*' does not exist in the build context", DANGLING),
        ("[", "pattern '[' has a malformed class", None),
    ],
)
def test_missing_sources(directory, source, message, hint):
    with pytest.raises(ContextError) as caught:
        chosen(BuildContext(directory), copy(source))
    assert caught.value.message == message
    assert caught.value.hints == (() if hint is None else (hint,))


@pytest.mark.parametrize(
    ("ignore", "sources", "expected"),
    [
        ("*.md", ["*.md"], []),
        ("*.md", ["docs"], ["docs/", " a.md", " b.txt"]),
        ("**/*.md", ["docs"], ["docs/", " b.txt"]),
        ("src", ["s*"], []),
        ("src/deep\nsrc/*.h", ["src"], ["src/", " main.c", " util.c"]),
        ("*\n!src/util.h", [""], ["/", " src", " src/util.h"]),
        ("*\n!src/util.h", ["*"], ["src/", " util.h"]),
        ("*\n!**/*.h", [""], ["/", " src", " src/util.h"]),
        ("*\n!**/*.h", ["*"], ["src/", " util.h"]),
        ("src\n!src/deep/er", ["src"], ["src/", " deep", " deep/er", " deep/er/x.c"]),
        ("# *\n!nothing\n\n  docs  ", ["d*"], None),
    ],
)
def test_ignored_files_are_not_there(directory, ignore, sources, expected):
    (directory / ".dockerignore").write_text(ignore)
    if expected is None:
        with pytest.raises(ContextError, match="'d\\*' does not exist"):
            chosen(open_context(directory), copy(*sources))
        (directory / "dangling").unlink()
        expected = []
    assert chosen(open_context(directory), copy(*sources)) == expected


@pytest.mark.parametrize(
    ("ignore", "source", "hint"),
    [
        ("*.md", "readme.md", "it is excluded by .dockerignore line 1: *.md"),
        ("# text\n\ndocs/", "docs/a.md", "it is excluded by .dockerignore line 3: docs"),
        ("\ufeffsrc", "src", "it is excluded by .dockerignore line 1: src"),
        ("*\n!src\nsrc/main.c", "src/main.c", "it is excluded by .dockerignore line 3: src/main.c"),
    ],
)
def test_the_line_that_excludes_a_source_is_named(directory, ignore, source, hint):
    (directory / ".dockerignore").write_text(ignore)
    with pytest.raises(ContextError) as caught:
        chosen(open_context(directory), copy(source))
    assert caught.value.hints == (hint,)


class TestIgnoreFile:
    def test_that_of_the_dockerfile_wins(self, directory):
        (directory / ".dockerignore").write_text("*.py")
        (directory / "Dockerfile.dockerignore").write_text("*.md")
        assert chosen(open_context(directory), copy("app.*", "*.md")) == ["readme.md"]
        context = open_context(directory, directory / "Dockerfile")
        assert context.ignore_name == "Dockerfile.dockerignore"
        assert chosen(context, copy("app.*")) == ["app.py"]
        assert chosen(context, copy("*.md")) == []

    def test_that_of_podman_counts_where_there_is_no_other(self, directory):
        (directory / ".containerignore").write_text("*.md")
        assert open_context(directory).ignore_name == ".containerignore"
        assert chosen(open_context(directory), copy("app.*", "*.md")) == ["app.py"]
        (directory / ".dockerignore").write_text("*.py")
        assert chosen(open_context(directory), copy("app.*", "*.md")) == ["readme.md"]

    def test_none(self, directory):
        assert chosen(open_context(directory, directory / "Dockerfile"), copy("*.md")) == ["readme.md"]

    def test_it_may_lie_outside_the_context(self, directory, tmp_path):
        (tmp_path / "my.Dockerfile").touch()
        (tmp_path / "my.Dockerfile.dockerignore").write_text("*.md")
        assert chosen(open_context(directory, tmp_path / "my.Dockerfile"), copy("*.md")) == []

    def test_malformed(self, directory):
        (directory / ".dockerignore").write_text("!")
        with pytest.raises(ContextError, match=r"ignore file '.*\.dockerignore'"):
            open_context(directory)

    def test_unreadable(self, directory):
        (directory / ".dockerignore").mkdir()
        with pytest.raises(ContextError, match="can't be read"):
            open_context(directory)

    def test_no_context(self, tmp_path):
        with pytest.raises(ContextError, match="is not a directory"):
            open_context(tmp_path / "none")

    def test_a_context_behind_a_link(self, directory, tmp_path):
        os.symlink(directory, tmp_path / "link")
        assert chosen(open_context(tmp_path / "link"), copy("*.md")) == ["readme.md"]


@pytest.mark.parametrize(
    ("excludes", "sources", "expected"),
    [
        (["*.c"], ["src"], ["src/", " deep", " deep/er", " deep/er/x.c", " util.h"]),
        (["**/*.c"], ["src"], ["src/", " deep", " deep/er", " util.h"]),
        (["deep"], ["src"], ["src/", " main.c", " util.c", " util.h"]),
        (["**", "!main.c"], ["src"], ["src/", " main.c"]),
        (["*.c"], ["src/*"], ["deep/", " er", " er/x.c", "util.h"]),
        (["app.py"], ["app.py"], ["app.py"]),
    ],
)
def test_exclude(directory, excludes, sources, expected):
    assert chosen(BuildContext(directory), copy(*sources, excludes=tuple(excludes))) == expected


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["src/main.c"], ["src/main.c"]),
        (["src/deep"], ["src/deep/", " src/deep/er", " src/deep/er/x.c"]),
        (["src/./deep/er"], ["deep/er/", " deep/er/x.c"]),
        (["src/./"], None),
        (["*/*.md"], ["docs/a.md"]),
        (["**/*.c"], ["src/deep/er/x.c", "src/main.c", "src/util.c"]),
        (["src/./**/*.c"], ["deep/er/x.c", "main.c", "util.c"]),
        (["**/none"], []),
        (["linkdir/./main.c"], ["main.c"]),
        (["linkdir"], ["linkdir"]),
    ],
)
def test_parents(directory, sources, expected):
    if expected is None:
        expected = ["/", " deep", " deep/er", " deep/er/x.c", " main.c", " util.c", " util.h"]
    assert chosen(BuildContext(directory), copy(*sources, parents=True)) == expected


def test_parents_and_exclude(directory):
    operation = copy("**/*.c", "docs", parents=True, excludes=("src/deep", "docs/*.md"))
    assert chosen(BuildContext(directory), operation) == ["src/main.c", "src/util.c", "docs/", " docs/b.txt"]


def test_parents_keeps_directories_on_the_way(directory):
    context = BuildContext(directory)
    (selected,) = select(context, copy("src/./deep/er/x.c", parents=True))
    assert [path for path, _ in kept_directories(context, selected)] == [b"deep", b"deep/er"]


def test_parents_missing(directory):
    with pytest.raises(ContextError, match=r"'src/\./none' does not exist"):
        chosen(BuildContext(directory), copy("src/./none", parents=True))


def test_names_that_are_not_utf8(directory):
    with open(os.fsencode(directory) + b"/x\xff", "wb"):
        pass
    assert [selected.name for selected in select(BuildContext(directory), copy("x?"))] == [b"x\xff"]
    assert [selected.name for selected in select(BuildContext(directory), copy("x\udcff"))] == [b"x\xff"]
