"""Random trees copied in random ways: the content hash agrees with what COPY makes of them.

The rule the cache stands on: when two contexts have one key, the layers COPY makes of them differ in nothing but times.
"""

import os
import shutil
import stat
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from builder.context import BuildContext
from builder.errors import BuildError
from builder.graph import Copy
from builder.steps import copy, copykeys
from cache.keys import CONTENT, StepInput

NAMES = st.sampled_from(["a", "b", "c"])
CONTENTS = st.sampled_from([b"", b"x", b"y"])
LEAVES = st.tuples(st.just("file"), CONTENTS, st.sampled_from([0o644, 0o600])) | st.tuples(
    st.just("link"), st.sampled_from(["a", "../b", "/c", "none"])
)
DIRECTORIES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=3),
    lambda inner: st.dictionaries(NAMES, LEAVES | inner, max_size=3),
    max_leaves=6,
)
SOURCES = st.sampled_from(["/", "/a", "/b", "/*", "/a/*", "/[ab]", "/a/b", "/?/?"])
DESTINATIONS = st.sampled_from(["/", "/x", "/x/", "/d", "/d/", "/l", "/d/a"])
OPTIONS = st.fixed_dictionaries(
    {
        "chmod": st.sampled_from(["", "", "700", "u=rwX,go="]),
        "chown": st.sampled_from(["", "", "3:4"]),
        "parents": st.booleans(),
        "excludes": st.sampled_from([(), (), ("a",), ("**/b",)]),
    }
)


@st.composite
def neighbours(draw):
    """A tree and one that differs from it little: where a key that says too little would be caught."""
    one = draw(DIRECTORIES)
    return one, _changed(draw, one)


def _changed(draw, tree):
    """``tree`` with one name, leaf or directory changed, or not at all."""
    other = dict(tree)
    if not tree:
        return {draw(NAMES): draw(LEAVES)}
    name = draw(st.sampled_from(sorted(tree)))
    what = draw(st.sampled_from(["same", "rename", "remove", "replace", "inside", "inside"]))
    if what == "rename":
        other[draw(NAMES)] = other.pop(name)
    elif what == "remove":
        del other[name]
    elif what == "replace":
        other[name] = draw(LEAVES | st.just({}))
    elif what == "inside" and isinstance(other[name], dict):
        other[name] = _changed(draw, other[name])
    return other


def plant(root, tree):
    root.mkdir(exist_ok=True)
    for name, made in tree.items():
        place = root / name
        if isinstance(made, dict):
            plant(place, made)
        elif made[0] == "link":
            os.symlink(made[1], place)
        else:
            place.write_bytes(made[1])
            place.chmod(made[2])


def describe(root):
    """All that is in ``root`` but times."""
    found = []
    for place in sorted(root.rglob("*")):
        status = place.lstat()
        content = None
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(place)
        elif stat.S_ISREG(status.st_mode):
            content = place.read_bytes()
        found.append((str(place.relative_to(root)), status.st_mode, status.st_uid, status.st_gid, content))
    return found


def outcome(top, name, tree, operation, base):
    """The key and the layer, or the message of the error."""
    plant(top / name, tree)
    context = BuildContext(top / name)
    upper = top / f"{name}-upper"
    upper.mkdir()
    try:
        sources = copykeys.keyed_sources(operation, context)
        target = copykeys.look_at(operation, [base])
        key = copykeys.key(CONTENT, operation, parent=StepInput("", "base"), sources=sources, target=target)
    except BuildError as error:
        return None, error.message
    try:
        copy.apply(operation, context, [base], upper)
    except BuildError as error:
        return key, error.message
    return key, describe(upper)


@given(neighbours(), st.lists(SOURCES, min_size=1, max_size=2), DESTINATIONS, OPTIONS)
@settings(max_examples=300, deadline=None)
def test_one_key_one_result(trees, sources, destination, options):
    one, other = trees
    operation = Copy(sources=tuple(sources), destination=destination, from_step=None, **options)
    top = Path(tempfile.mkdtemp(prefix="copy-oracle-"))
    try:
        base = top / "base"
        (base / "d" / "a").mkdir(parents=True)
        os.symlink("d", base / "l")
        (base / "d" / "c").write_bytes(b"old")
        first_key, first = outcome(top, "one", one, operation, base)
        second_key, second = outcome(top, "other", other, operation, base)
        if first_key is not None and first_key == second_key:
            assert first == second
        if one == other:
            assert first_key == second_key
    finally:
        shutil.rmtree(top)
