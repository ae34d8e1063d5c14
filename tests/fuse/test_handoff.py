"""Where the serving thread runs: the decision as a table, the moves on real threads, and on a real mount."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fuse.conftest import wait_until
from fuse.test_direct import serving
from loopback import Loopback
from unionfs.transport import handoff
from unionfs.transport.handoff import ENOUGH, LONGEST_PAUSE_NS, LOOK_EVERY, PAUSE_NS, QUICK_NS, Handoff, Pace, Wish

pytestmark = pytest.mark.fuse

_ASKER, _OTHER = 7, 8
_STEP_NS = 20_000


class Requests:
    """A clock, and requests that are told to a pace."""

    def __init__(self) -> None:
        self.pace = Pace()
        self.now = 10 * LONGEST_PAUSE_NS

    def one(self, asker: int = _ASKER, *, gap: int = _STEP_NS, work: int = _STEP_NS) -> list[Wish]:
        """What it wishes when a request comes after ``gap``, and when it is answered after ``work`` nanoseconds."""
        self.now += gap
        before = self.pace.asked(self.now)
        self.now += work
        return [before, self.pace.answering(self.now, asker)]

    def until_near(self) -> int:
        """The number of requests it takes to be near."""
        for count in range(1, 1_000_000):
            if self.one()[1] is Wish.NEAR:
                self.pace.moved(near=True)
                return count
        raise AssertionError


def test_enough_quick_requests_of_one_thread_are_worth_a_move() -> None:
    assert Requests().until_near() == ENOUGH + 1  # the first is where the thread is known from


@pytest.mark.parametrize(
    ("asker", "gap", "work", "wishes"),
    [
        (_ASKER, _STEP_NS, _STEP_NS, [Wish.STAY, Wish.STAY]),
        (0, _STEP_NS, _STEP_NS, [Wish.STAY, Wish.STAY]),
        (_OTHER, _STEP_NS, _STEP_NS, [Wish.STAY, Wish.SAME]),
        (_ASKER, QUICK_NS, QUICK_NS, [Wish.STAY, Wish.STAY]),
        (_ASKER, QUICK_NS + 1, _STEP_NS, [Wish.AWAY, Wish.STAY]),
        (_ASKER, _STEP_NS, QUICK_NS + 1, [Wish.STAY, Wish.AWAY]),
    ],
    ids=["as before", "nobody waits", "somebody else", "just quick", "thinks", "is kept waiting"],
)
def test_what_ends_it(asker: int, gap: int, work: int, wishes: list[Wish]) -> None:
    requests = Requests()
    requests.until_near()
    assert requests.one(asker, gap=gap, work=work) == wishes


@pytest.mark.parametrize(
    ("asker", "gap", "work"),
    [(_OTHER, _STEP_NS, _STEP_NS), (_ASKER, QUICK_NS + 1, _STEP_NS), (_ASKER, _STEP_NS, QUICK_NS + 1)],
    ids=["somebody else", "thinks", "slow"],
)
def test_what_keeps_it_from_beginning(asker: int, gap: int, work: int) -> None:
    requests = Requests()
    for number in range(10 * ENOUGH):
        wishes = requests.one() if number % (ENOUGH - 1) else requests.one(asker, gap=gap, work=work)
        assert wishes == [Wish.STAY, Wish.STAY]


def test_it_looks_where_the_asker_is() -> None:
    requests = Requests()
    requests.until_near()
    wishes = [requests.one()[1] for _ in range(3 * LOOK_EVERY)]
    assert [number for number, wish in enumerate(wishes, 1) if wish is Wish.NEAR] == [
        LOOK_EVERY,
        2 * LOOK_EVERY,
        3 * LOOK_EVERY,
    ]


def test_each_refusal_makes_the_next_pause_longer_until_it_is_long_ago() -> None:
    requests = Requests()
    pauses = []
    for _ in range(9):
        requests.until_near()
        requests.pace.refused()
        requests.pace.moved(near=False)
        begin = requests.now
        requests.until_near()
        requests.pace.moved(near=False)
        pauses.append(requests.now - begin)
    expected = [min(PAUSE_NS << count, LONGEST_PAUSE_NS) for count in range(9)]
    assert [abs(pause - want) < want // 5 for pause, want in zip(pauses, expected, strict=True)] == [True] * 9
    requests.now += 3 * LONGEST_PAUSE_NS
    requests.until_near()
    requests.pace.refused()
    requests.pace.moved(near=False)
    begin = requests.now
    requests.until_near()
    assert requests.now - begin < 2 * PAUSE_NS


@pytest.fixture
def server() -> Iterator[ThreadPoolExecutor]:
    """One thread that may be moved about."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def asker() -> Iterator[int]:
    """A thread that sleeps."""
    wake = threading.Event()
    thread = threading.Thread(target=wake.wait)
    thread.start()
    assert thread.native_id is not None
    yield thread.native_id
    wake.set()
    thread.join()


def _ask_quickly(it: Handoff, asker: int) -> None:
    """As many requests as it takes; a disturbed machine makes some of them slow."""
    wait_until(lambda: any(_asked(it, asker) for _ in range(2 * ENOUGH)), "it goes")


def _asked(it: Handoff, asker: int) -> bool:
    it.asked()
    it.answering(asker)
    return it.patience is not None


def _place() -> tuple[int, set[int]]:
    return os.sched_getscheduler(0), os.sched_getaffinity(0)


def test_it_goes_to_the_processor_of_the_asker_and_back(server: ThreadPoolExecutor, asker: int) -> None:
    it = Handoff(lambda: True)
    before = server.submit(_place).result()
    server.submit(_ask_quickly, it, asker).result()
    assert server.submit(_place).result() == (os.SCHED_IDLE, {handoff.processor_of(asker)})
    assert it.spins == 0
    server.submit(it.leave).result()
    assert server.submit(_place).result() == before
    assert it.patience is None
    assert it.spins > 0


def test_what_it_starts_there_runs_anywhere(server: ThreadPoolExecutor, asker: int) -> None:
    it = Handoff(lambda: True)
    everywhere = server.submit(_place).result()

    def start() -> tuple[int, set[int]]:
        def place() -> tuple[int, set[int]]:
            handoff.run_anywhere()
            return _place()

        _ask_quickly(it, asker)
        with ThreadPoolExecutor(1) as helper:
            return helper.submit(place).result()

    assert server.submit(start).result() == everywhere


def test_processors_it_was_kept_from_stay_so(server: ThreadPoolExecutor, asker: int) -> None:
    it = Handoff(lambda: True)
    elsewhere = os.sched_getaffinity(0)
    only = {min(elsewhere)}
    server.submit(os.sched_setaffinity, 0, only).result()
    server.submit(_ask_quickly, it, asker).result()
    server.submit(it.leave).result()
    assert server.submit(_place).result() == (os.SCHED_OTHER, only)


@pytest.mark.parametrize("busy", [True, False])
def test_it_stays_where_no_processor_is_left(server: ThreadPoolExecutor, asker: int, busy: bool) -> None:
    it = Handoff(lambda: not busy)
    before = server.submit(_place).result()
    moved = server.submit(lambda: any(_asked(it, asker) for _ in range(100 * ENOUGH))).result()
    server.submit(it.leave).result()
    assert moved is not busy
    assert server.submit(_place).result() == before


def test_a_policy_that_somebody_chose_is_kept(server: ThreadPoolExecutor, asker: int) -> None:
    it = Handoff(lambda: True)
    server.submit(os.sched_setscheduler, 0, os.SCHED_BATCH, os.sched_param(0)).result()
    server.submit(lambda: [_asked(it, asker) for _ in range(10 * ENOUGH)]).result()
    assert server.submit(_place).result() == (os.SCHED_BATCH, os.sched_getaffinity(0))


def test_who_could_not_come_back_does_not_go() -> None:
    pid = os.fork()  # noqa: TID251 - root's rights are given up for good
    if pid == 0:
        os.setgid(65534)
        os.setuid(65534)
        os._exit(handoff.may_return())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert handoff.may_return()


def test_a_processor_is_not_known_of_threads_that_are_not_there(asker: int) -> None:
    assert handoff.processor_of(asker) in os.sched_getaffinity(0)
    assert handoff.processor_of(1 << 30) is None


def test_a_mount_is_served_beside_who_asks(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    before = _place()
    with serving(Loopback(os.fsencode(tree)), root, handoff=Handoff(lambda: True)) as mount:
        thread = mount.thread.native_id
        assert thread is not None

        def served_beside() -> bool:
            for number in range(4 * ENOUGH):
                os.chmod(root / "file", 0o600 | number % 8)
            return os.sched_getscheduler(thread) == os.SCHED_IDLE and len(os.sched_getaffinity(thread)) == 1

        wait_until(served_beside, "the server comes")
        wait_until(lambda: (os.sched_getscheduler(thread), os.sched_getaffinity(thread)) == before, "it goes")
        assert (root / "file").read_bytes() == b"content"
