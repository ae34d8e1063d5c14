"""The index: what is found again, by whom, and what a broken file does."""

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from cache import keys
from cache.contenthash import FileState, KnownFile
from cache.errors import LockCancelledError
from cache.keys import CONTENT, StepInput
from cache.records import BuildCache, CacheRecord

MINUTE_NS = 60 * 10**9


def run_key(command="make", parent="sha256:p", env=("A=1",), strength=CONTENT):
    return keys.run_key(
        strength,
        parent=StepInput("k", parent),
        argv=("/bin/sh", "-c", command),
        env=env,
        cwd="/",
        user="",
        platform="linux/amd64",
    )


def record(key, **changes):
    made = CacheRecord(
        key=key.digest,
        kind=key.domain,
        chain_id="sha256:c",
        parent_chain_id="sha256:p",
        diff_id="sha256:d",
        media_type="application/vnd.oci.image.layer.v1.tar",
        digest="sha256:e",
        size_bytes=1024,
        created="2024-01-02T03:04:05Z",
        created_ns=1000,
        duration_ns=5,
        identity="Dockerfile:build",
        description="RUN make",
        parts=key.parts,
        last_used_ns=1000,
    )
    return made._replace(**changes)


@pytest.fixture
def cache(tmp_path):
    with BuildCache(tmp_path, warn=pytest.fail) as made:
        yield made


def test_what_was_added_is_found(cache, tmp_path):
    key = run_key()
    made = record(key)
    assert cache.find(key) is None
    cache.add(made)
    assert cache.find(key) == made
    assert cache.find(key.digest) == made
    assert cache.find(run_key("other")) is None
    with BuildCache(tmp_path, warn=pytest.fail) as again:
        assert again.find(key) == made


def test_the_last_result_of_a_key_counts(cache):
    key = run_key()
    cache.add(record(key), record(run_key("other")))
    cache.add(record(key, chain_id="sha256:new"))
    assert cache.find(key).chain_id == "sha256:new"
    assert cache.find(run_key("other")).chain_id == "sha256:c"


def test_several_records_are_added_all_or_none(cache, tmp_path):
    warnings = []
    cache._database._warn = warnings.append
    bad = record(run_key("bad"), size_bytes=2**70)
    with pytest.raises(OverflowError):
        cache.add(record(run_key()), bad)
    assert cache.find(run_key()) is None


def test_text_of_any_kind_is_kept(cache):
    key = run_key("echo \udcff \ud800 é\0")
    cache.add(record(key, description="RUN \udcff", identity="\udcff"))
    assert cache.find(key).parts == key.parts
    assert cache.find(key).description == "RUN \\udcff"
    assert cache.nearest("\udcff", key) is not None


def test_remove(cache):
    key = run_key()
    cache.add(record(key))
    cache.remove([key])
    assert cache.find(key) is None


def test_touch_writes_only_when_it_matters(cache):
    key = run_key()
    cache.add(record(key))
    cache.touch([cache.find(key)], 1000 + MINUTE_NS)
    assert cache.find(key).last_used_ns == 1000
    cache.touch([cache.find(key)], 1000 + 6 * MINUTE_NS)
    assert cache.find(key).last_used_ns == 1000 + 6 * MINUTE_NS


def test_du_counts_a_layer_once(cache):
    cache.add(
        record(run_key()),
        record(run_key(strength=keys.DEFINITION)),
        record(run_key("other"), chain_id="sha256:2", size_bytes=10),
    )
    usage = cache.du()
    assert usage.total_bytes == 1034
    assert [result.chain_id for result in usage.results] == ["sha256:2", "sha256:c"]


def test_prune_removes_all_records_of_a_result(cache):
    cache.add(record(run_key()), record(run_key(strength=keys.DEFINITION)), record(run_key("x"), chain_id="sha256:2"))
    dry = cache.prune(everything=True, in_use=["sha256:2"], dry_run=True)
    assert len(cache.results()) == 2
    assert cache.prune(everything=True, in_use=["sha256:2"]) == dry
    assert dry.chain_ids == ("sha256:c",)
    assert dry.freed_bytes == 1024
    assert [result.chain_id for result in cache.results()] == ["sha256:2"]


class TestExplain:
    def test_the_first_part_that_differs(self, cache):
        cache.add(record(run_key()))
        found = cache.explain("Dockerfile:build", run_key("make all"))
        assert (found.part, found.old, found.new) == ("command", "/bin/sh -c make", "/bin/sh -c make all")

    @pytest.mark.parametrize(
        ("env", "part", "old", "new"),
        [
            (("A=2",), "env A", "1", "2"),
            (("A=1", "B=1"), "env B", None, "1"),
            ((), "env A", "1", None),
        ],
    )
    def test_parts_that_come_and_go(self, cache, env, part, old, new):
        cache.add(record(run_key()))
        found = cache.explain("Dockerfile:build", run_key(env=env))
        assert (found.part, found.old, found.new) == (part, old, new)

    def test_the_nearest_record_has_most_in_common(self, cache):
        far = record(run_key("make", parent="sha256:1", env=("A=9", "B=9")), created_ns=9, description="far")
        near = record(run_key("make", env=("A=3",)), created_ns=3, description="near")
        cache.add(far, near)
        assert cache.nearest("Dockerfile:build", run_key()).description == "near"

    def test_the_latest_of_equals(self, cache):
        cache.add(record(run_key("one"), created_ns=1), record(run_key("two"), created_ns=2))
        assert cache.explain("Dockerfile:build", run_key("three")).old == "/bin/sh -c two"

    def test_other_steps_and_kinds_do_not_count(self, cache):
        cache.add(record(run_key()))
        assert cache.explain("Dockerfile:other", run_key("x")) is None
        assert cache.explain("Dockerfile:build", run_key("x", strength=keys.DEFINITION)) is None

    def test_long_values_that_look_alike_differ(self, cache):
        cache.add(record(run_key("x" * 300 + "a")))
        assert cache.explain("Dockerfile:build", run_key("x" * 300 + "b")).part == "command"

    def test_nothing_differs(self, cache):
        cache.add(record(run_key()))
        assert cache.explain("Dockerfile:build", run_key()) is None


def test_prune_forgets_files(cache):
    state = FileState(1, 2, 3, 4, 5)
    cache.files.learn({state: KnownFile(b"d" * 32, b"")}, time.time_ns())
    cache.prune(everything=True, dry_run=True)
    cache.prune()
    assert cache.files.recall([state])
    cache.prune(everything=True)
    assert not cache.files.recall([state])


def _damage(path, content):
    with BuildCache(path.parent, warn=pytest.fail) as cache:
        cache.add(*(record(run_key(str(number))) for number in range(200)))
    content(path)


def _tear(path):
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def _drop_table(path):
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE record")
    connection.close()


def _later_version(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def _foreign(path):
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b"not a database, but long enough" * 100), id="no database"),
        pytest.param(_tear, id="torn"),
        pytest.param(_drop_table, id="table gone"),
        pytest.param(_later_version, id="other version"),
        pytest.param(_foreign, id="of another program"),
    ],
)
def test_a_damaged_file_is_moved_aside_with_a_warning(tmp_path, damage):
    path = tmp_path / "cache.db"
    _damage(path, damage)
    damaged = path.read_bytes()
    warnings = []
    with BuildCache(tmp_path, warn=warnings.append) as cache:
        key = run_key("7")
        assert cache.find(key) is None
        assert len(warnings) == 1
        assert "starts empty" in warnings[0]
        assert (tmp_path / "cache.db.unusable-1").read_bytes()[4096:] == damaged[4096:]
        cache.add(record(key))
        assert cache.find(key) is not None
    with BuildCache(tmp_path, warn=pytest.fail) as again:
        assert again.find(key) is not None


@pytest.mark.parametrize("occupied", ["file", "database is a directory"])
def test_an_unusable_place_is_said_once_and_the_cache_is_empty(tmp_path, occupied):
    root = tmp_path / "root"
    if occupied == "file":
        root.write_bytes(b"")
    else:
        (root / "cache.db").mkdir(parents=True)
    warnings = []
    with BuildCache(root, warn=warnings.append) as cache:
        key = run_key()
        cache.add(record(key))
        assert cache.find(key) is None
        assert cache.results() == ()
        assert cache.explain("Dockerfile:build", key) is None
        cache.touch([record(key)], 10**18)
        assert cache.prune(everything=True).chain_ids == ()
    assert len(warnings) == 1
    assert "is not used" in warnings[0]


def test_a_locked_file_is_waited_for(tmp_path):
    with BuildCache(tmp_path, warn=pytest.fail) as cache:
        cache.add(record(run_key()))
        other = sqlite3.connect(tmp_path / "cache.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.2, lambda: other.execute("COMMIT"))
        release.start()
        cache.add(record(run_key("two")))
        release.join()
        other.close()
        assert cache.find(run_key("two")) is not None


def test_a_file_that_stays_locked_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("cache.database.BUSY_SECONDS", 0.05)
    warnings = []
    with BuildCache(tmp_path, warn=warnings.append) as cache:
        cache.add(record(run_key()))
        other = sqlite3.connect(tmp_path / "cache.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        cache.add(record(run_key("two")))
        other.close()
    assert len(warnings) == 1
    assert "locked" in warnings[0]


def test_threads_share_a_cache(cache):
    def work(number):
        for turn in range(20):
            key = run_key(f"{number} {turn}")
            cache.add(record(key))
            assert cache.find(key) is not None

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache._database.query("SELECT key FROM record")) == 80


def test_those_who_come_at_once_make_one_index(tmp_path):
    """A change of mode does not wait for others by itself; who was refused went on without a cache."""
    warnings = []
    for turn in range(40):
        start_line = threading.Barrier(4)

        def work(number, turn=turn, start_line=start_line):
            with BuildCache(tmp_path / str(turn), warn=warnings.append) as cache:
                start_line.wait()
                cache.add(record(run_key(str(number))))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with BuildCache(tmp_path / str(turn), warn=warnings.append) as cache:
            assert [number for number in range(4) if cache.find(run_key(str(number))) is None] == []
    assert warnings == []


WRITER = """
    import sys
    sys.path[:0] = [sys.argv[3], sys.argv[4]]
    from test_records import record, run_key
    from cache.records import BuildCache
    with BuildCache(sys.argv[1], warn=sys.exit) as cache:
        for turn in range(50):
            cache.add(record(run_key(f"{sys.argv[2]} {turn}")))
"""


def start(code, *arguments):
    here = os.path.dirname(__file__)
    root = os.path.abspath(os.path.join(here, "../../.."))
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments), root, here]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def test_several_processes_write_at_once(tmp_path):
    writers = [start(WRITER, tmp_path, number) for number in range(3)]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    with BuildCache(tmp_path, warn=pytest.fail) as cache:
        assert len(cache._database.query("SELECT key FROM record")) == 150


HOLDER = """
    import sys, time
    sys.path.insert(0, sys.argv[2])
    from cache.records import BuildCache
    with BuildCache(sys.argv[1]).lock("k"):
        print("held", flush=True)
        sys.stdin.read()
"""


class TestLock:
    def test_two_in_one_process(self, cache):
        order = []
        begun = threading.Event()

        def second():
            begun.set()
            with cache.lock("k", waiting=lambda: order.append("waiting")) as waited:
                order.append(("second", waited))

        thread = threading.Thread(target=second)
        with cache.lock("k") as waited:
            thread.start()
            begun.wait()
            while not order:
                pass
            order.append(("first", waited))
        thread.join()
        assert order == ["waiting", ("first", False), ("second", True)]

    def test_other_keys_are_free(self, cache):
        with cache.lock("k"), cache.lock("l") as waited:
            assert waited is False

    def test_nothing_is_left(self, cache, tmp_path):
        with cache.lock("k"):
            assert os.listdir(tmp_path / "locks") == ["k.lock"]
        assert os.listdir(tmp_path / "locks") == []

    def test_an_error_inside_frees_it(self, cache):
        with pytest.raises(ValueError, match="inside"), cache.lock("k"):
            raise ValueError("inside")
        with cache.lock("k") as waited:
            assert waited is False

    def test_waiting_can_be_cancelled(self, cache):
        with (
            cache.lock("k"),
            pytest.raises(LockCancelledError),
            cache.lock("k", cancelled=lambda: True),
        ):
            pass

    def test_a_killed_holder_lets_go(self, cache, tmp_path):
        holder = start(HOLDER, tmp_path)
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockCancelledError), cache.lock("k", cancelled=lambda: True):
            pass
        holder.kill()
        holder.communicate()
        with cache.lock("k") as waited:
            assert waited is False

    def test_files_of_killed_holders_are_swept(self, cache, tmp_path):
        holder = start(HOLDER, tmp_path)
        assert holder.stdout.readline() == "held\n"
        (tmp_path / "locks" / "dead.lock").touch()
        with cache.lock("living"):
            cache.sweep_locks()
            assert sorted(os.listdir(tmp_path / "locks")) == ["k.lock", "living.lock"]
        holder.kill()
        holder.communicate()
        cache.sweep_locks()
        assert os.listdir(tmp_path / "locks") == []

    def test_without_a_place_for_locks_there_is_a_warning(self, tmp_path):
        (tmp_path / "locks").write_bytes(b"")
        warnings = []
        with BuildCache(tmp_path, warn=warnings.append) as cache, cache.lock("k") as waited:
            assert waited is False
            cache.sweep_locks()
        assert len(warnings) == 1

    def test_many_contenders_are_never_two_at_once(self, cache):
        inside = []
        seen = []

        def contend():
            for _ in range(10):
                with cache.lock("k"):
                    inside.append(1)
                    seen.append(len(inside))
                    inside.pop()

        threads = [threading.Thread(target=contend) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [1] * 40
