"""Unchanged files are not read again; changed ones always are."""

import os
import time

import pytest

from cache import hosttree
from cache.contenthash import FileState, KnownFile, fingerprint
from cache.records import BuildCache


@pytest.fixture
def cache(tmp_path):
    with BuildCache(tmp_path / "store", warn=pytest.fail) as made:
        yield made


KNOWN = KnownFile(b"d" * 32, b"x")
NOW_NS = time.time_ns()


def test_learned_states_are_recalled(cache, tmp_path):
    states = [FileState(2**63 + 1, 2**64 - number - 1, number, 5, 6) for number in range(1200)]
    cache.files.learn(dict.fromkeys(states, KNOWN), NOW_NS)
    assert cache.files.recall(states) == dict.fromkeys(states, KNOWN)


@pytest.mark.parametrize("field", FileState._fields)
def test_any_other_state_is_unknown(cache, tmp_path, field):
    state = FileState(1, 2, 3, 4, 5)
    cache.files.learn({state: KNOWN}, NOW_NS)
    assert cache.files.recall([state._replace(**{field: 9})]) == {}
    assert cache.files.recall([state]) == {state: KNOWN}


@pytest.mark.parametrize("field", ["mtime_ns", "ctime_ns"])
def test_a_file_that_changed_just_now_is_not_learned(cache, field):
    old = FileState(1, 2, 3, 4, 5)
    cache.files.learn({old._replace(**{field: time.time_ns() - 10**9}): KNOWN}, NOW_NS)
    cache.files.learn({old._replace(**{field: time.time_ns() + 10**12}): KNOWN}, NOW_NS)
    assert cache._database.query("SELECT count(*) FROM file_digest") == [(0,)]


def test_a_file_that_changed_just_before_it_was_read_is_not_learned(cache):
    """However long ago that is: what took long to read may have changed right after its part was read."""
    changed_ns = time.time_ns() - 60 * 10**9
    state = FileState(1, 2, 3, changed_ns, changed_ns)
    cache.files.learn({state: KNOWN}, changed_ns + 10**9)
    assert cache.files.recall([state]) == {}
    cache.files.learn({state: KNOWN}, changed_ns + 3 * 10**9)
    assert cache.files.recall([state]) == {state: KNOWN}


def test_the_last_state_of_a_file_counts(cache):
    one, two = FileState(1, 2, 3, 4, 5), FileState(1, 2, 3, 4, 6)
    cache.files.learn({one: KNOWN}, NOW_NS)
    cache.files.learn({two: KNOWN}, NOW_NS)
    assert cache.files.recall([one, two]) == {two: KNOWN}


def test_forget_older(cache):
    state = FileState(1, 2, 3, 4, 5)
    cache.files.learn({state: KNOWN}, NOW_NS)
    cache.files.forget_older(0)
    assert cache.files.recall([state])
    cache.files.forget_older(time.time_ns() + 1)
    assert not cache.files.recall([state])


def test_a_second_hash_reads_nothing(cache, tmp_path, monkeypatch):
    (tmp_path / "c").mkdir()
    for name in ("a", "b"):
        (tmp_path / "c" / name).write_bytes(name.encode())
    entries = list(hosttree.walk(os.fsencode(tmp_path / "c")))
    monkeypatch.setattr("cache.filedigests.RACY_NS", -3600 * 10**9)
    first = fingerprint(entries, cache.files)
    monkeypatch.setattr(hosttree.HostEntry, "open", lambda entry: pytest.fail(f"{entry} was read"))
    assert fingerprint(entries, cache.files) == first
    assert fingerprint(hosttree.walk(os.fsencode(tmp_path / "c")), cache.files) == first


def test_a_change_that_keeps_size_and_mtime_is_seen(cache, tmp_path, monkeypatch):
    path = tmp_path / "c" / "a"
    path.parent.mkdir()
    path.write_bytes(b"one")
    monkeypatch.setattr("cache.filedigests.RACY_NS", -3600 * 10**9)
    found = os.stat(path)
    first = fingerprint(hosttree.walk(os.fsencode(tmp_path / "c")), cache.files)
    time.sleep(0.02)
    path.write_bytes(b"two")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert fingerprint(hosttree.walk(os.fsencode(tmp_path / "c")), cache.files) != first


def test_a_file_that_changes_while_it_is_read_is_not_learned(cache, tmp_path, monkeypatch):
    path = tmp_path / "c" / "a"
    path.parent.mkdir()
    path.write_bytes(b"one")
    monkeypatch.setattr("cache.filedigests.RACY_NS", -3600 * 10**9)
    entries = list(hosttree.walk(os.fsencode(tmp_path / "c")))
    path.write_bytes(b"other")
    fingerprint(entries, cache.files)
    assert cache._database.query("SELECT count(*) FROM file_digest") == [(0,)]


def test_attributes_are_remembered_with_the_file(cache, tmp_path, monkeypatch):
    path = tmp_path / "c" / "a"
    path.parent.mkdir()
    path.write_bytes(b"one")
    os.setxattr(path, "user.x", b"1")
    monkeypatch.setattr("cache.filedigests.RACY_NS", -3600 * 10**9)
    first = fingerprint(hosttree.walk(os.fsencode(tmp_path / "c")), cache.files)
    assert fingerprint(hosttree.walk(os.fsencode(tmp_path / "c")), cache.files) == first
    time.sleep(0.02)
    os.setxattr(path, "user.x", b"2")
    assert fingerprint(hosttree.walk(os.fsencode(tmp_path / "c")), cache.files) != first
