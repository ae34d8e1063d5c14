"""Random trees: one hash for equal trees only, and nothing but the included attributes in it."""

import os
import stat

from hypothesis import given, settings
from hypothesis import strategies as st

from cache.contenthash import fingerprint, frame_xattrs
from cache.framing import frame

# names and contents made of the very characters that frame: digits, separators, type letters
TRICKY = st.binary(min_size=0, max_size=6) | st.lists(
    st.sampled_from([b"0", b"1", b"2", b":", b",", b"F", b"E", b"\0", b"a", b"end"]), max_size=6
).map(b"".join)
NUMBERS = st.integers(0, 12)


class Entry:
    """An entry of a tree that is nowhere but here (``TreeEntry``)."""

    def __init__(self, path, kind, permissions, uid, gid, rdev, link, xattrs, content):
        self.path = path
        self.mode = kind | permissions
        self.uid = uid
        self.gid = gid
        self.rdev = rdev
        self.link = link
        self._xattrs = xattrs
        self.content = content
        self.size = len(content) if kind == stat.S_IFREG else 4096
        self.nlink = 1
        self.file_id = (0, id(self))
        self.state = None

    def readlink(self):
        return self.link

    def xattrs(self):
        return self._xattrs

    def open(self):
        descriptor = os.memfd_create("content")
        os.write(descriptor, self.content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    @property
    def meaning(self):
        """What two entries must have in common to be the same for COPY."""
        kind = stat.S_IFMT(self.mode)
        return (
            self.path,
            self.mode if kind != stat.S_IFLNK else kind,
            self.uid,
            self.gid,
            self.rdev if kind in {stat.S_IFCHR, stat.S_IFBLK} else None,
            self.link if kind == stat.S_IFLNK else None,
            self.content if kind == stat.S_IFREG else None,
            self._xattrs,
        )


ENTRIES = st.builds(
    Entry,
    path=TRICKY,
    kind=st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO]),
    permissions=st.sampled_from([0o644, 0o755, 0o4755, 0]),
    uid=NUMBERS,
    gid=NUMBERS,
    rdev=NUMBERS,
    link=TRICKY,
    xattrs=st.dictionaries(TRICKY, TRICKY, max_size=2).map(lambda found: tuple(sorted(found.items()))),
    content=TRICKY,
)
TREES = st.lists(ENTRIES, max_size=4)


def meaning(tree):
    return [entry.meaning for entry in tree]


@given(TREES, TREES)
@settings(max_examples=500, deadline=None)
def test_trees_share_a_hash_only_when_they_mean_the_same(one, other):
    same = fingerprint(one).digest == fingerprint(other).digest
    assert same == (meaning(one) == meaning(other))


@given(TREES, st.data())
@settings(max_examples=300, deadline=None)
def test_any_single_change_is_seen(tree, data):
    """Trees that differ in one attribute of one entry: far nearer to each other than two random ones."""
    if not tree:
        return
    before = fingerprint(tree).digest
    meant = meaning(tree)
    entry = data.draw(st.sampled_from(tree))
    name, values = data.draw(
        st.sampled_from(
            [
                ("path", TRICKY),
                ("uid", NUMBERS),
                ("gid", NUMBERS),
                ("rdev", NUMBERS),
                ("link", TRICKY),
                ("content", TRICKY),
                ("mode", st.sampled_from([stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777])),
            ]
        )
    )
    setattr(entry, name, data.draw(values))
    if stat.S_ISREG(entry.mode):
        entry.size = len(entry.content)
    assert (fingerprint(tree).digest == before) == (meaning(tree) == meant)


@given(TREES, st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_batches_do_not_matter(tree, batch):
    assert fingerprint(tree, batch=batch) == fingerprint(tree)


ATTRIBUTES = st.lists(st.tuples(TRICKY, TRICKY), max_size=3)


@given(ATTRIBUTES, ATTRIBUTES)
@settings(max_examples=500, deadline=None)
def test_framed_attributes_are_distinct(one, other):
    assert (frame_xattrs(one) == frame_xattrs(other)) == (one == other)


VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=4) | TRICKY,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


def typed(value):
    """``value`` with its types, since 1, True and 1.0 are equal to Python."""
    if isinstance(value, tuple):
        return ("tuple", tuple(map(typed, value)))
    if isinstance(value, dict):
        return ("dict", tuple((key, typed(value[key])) for key in sorted(value)))
    return (type(value).__name__, value)


@given(VALUES, VALUES)
@settings(max_examples=500, deadline=None)
def test_framed_values_are_distinct(one, other):
    assert (frame(one) == frame(other)) == (typed(one) == typed(other))
