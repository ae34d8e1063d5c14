"""Where the serving thread runs: the decision as a table, the moves on real threads, and on a real mount."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fuse.conftest import wait_until
from fuse.test_direct import serving
from loopback import Loopback
from unionfs.transport import handoff
from unionfs.transport.handoff import Handoff
from unionfs.transport.pace import ENOUGH, FEW, LONGEST_PAUSE_NS, LOOK_EVERY, PAUSE_NS, QUICK_NS, Pace, Wish

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


def test_enough_quick_requests_are_worth_a_move() -> None:
    assert Requests().until_near() == ENOUGH


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
    ("gap", "work"),
    [(QUICK_NS + 1, _STEP_NS), (_STEP_NS, QUICK_NS + 1)],
    ids=["thinks", "slow"],
)
def test_what_keeps_it_from_beginning(gap: int, work: int) -> None:
    requests = Requests()
    for number in range(10 * ENOUGH):
        wishes = requests.one() if number % (ENOUGH - 1) else requests.one(gap=gap, work=work)
        assert wishes == [Wish.STAY, Wish.STAY]


def test_programs_one_after_the_other_are_followed_and_alternating_ones_are_not() -> None:
    requests = Requests()
    requests.until_near()
    for _ in range(FEW):
        requests.one(_ASKER)
    assert requests.one(_OTHER)[1] is Wish.NEAR
    requests.pace.moved(near=True)
    for _ in range(FEW - 1):
        requests.one(_OTHER)
    assert requests.one(_ASKER)[1] is Wish.SAME
    assert requests.one(_OTHER)[1] is Wish.SAME


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
def asker() -> Iterator[int]:
    """A thread that sleeps most of the time; one that always did would not go where it is sent."""
    wake = threading.Event()

    def doze() -> None:
        while not wake.wait(0.01):
            pass

    thread = threading.Thread(target=doze)
    thread.start()
    assert thread.native_id is not None
    yield thread.native_id
    wake.set()
    thread.join()


@pytest.fixture
def it() -> Iterator[Handoff]:
    """One that finds processors idle."""
    made = Handoff(lambda: True)
    yield made
    made.close()


def _place() -> tuple[int, set[int]]:
    return os.sched_getscheduler(0), os.sched_getaffinity(0)


def _ask(it: Handoff, asker: int) -> bool:
    """Whether it is near after one more request."""
    it.asked()
    it.answering(asker)
    return it.near


def _come(it: Handoff, asker: int) -> None:
    """It is near; a disturbed machine makes some requests slow."""
    wait_until(lambda: any(_ask(it, asker) for _ in range(2 * ENOUGH)), "it comes")


def test_turns_are_beside_the_asker_and_back(it: Handoff, asker: int) -> None:
    here, spins = _place(), it.spins
    places = []

    def turn() -> None:
        places.append((_place(), it.near, it.spins))
        it.leave()

    _come(it, asker)
    assert it.moving
    beside = handoff.processor_of(asker)
    it.run(turn)
    assert it.moving
    it.run(turn)
    assert places == [((os.SCHED_IDLE, {beside}), True, 0), (here, False, spins)]
    assert not it.moving
    assert _place() == here


def test_the_asker_is_followed(it: Handoff, asker: int) -> None:
    places = []

    def turn() -> None:
        others = os.sched_getaffinity(native) - {handoff.processor_of(asker)}
        os.sched_setaffinity(asker, others or os.sched_getaffinity(asker))
        wait_until(lambda: handoff.processor_of(asker) in others, "the asker is elsewhere")
        for _ in range(4 * LOOK_EVERY):
            _ask(it, asker)
        places.append((_place(), it.near, handoff.processor_of(asker)))

    native = threading.get_native_id()
    it.run(lambda: None)

    def followed() -> bool:
        os.sched_setaffinity(asker, os.sched_getaffinity(native))
        _come(it, asker)
        it.run(turn)
        (_policy, processors), near, where = places[-1]
        return near and processors == {where}

    wait_until(followed, "it follows")


def test_the_second_time_is_the_same_thread(it: Handoff, asker: int) -> None:
    threads = []
    for _ in range(2):
        _come(it, asker)
        it.run(lambda: threads.append(threading.get_native_id()))
        it.leave()
    assert threads[0] == threads[1] != threading.get_native_id()


def test_threads_are_not_started_beside_the_asker(it: Handoff, asker: int) -> None:
    here = _place()
    places: list[tuple[int, set[int]]] = []

    def turn() -> None:
        helper = threading.Thread(target=lambda: places.append(_place()))
        it.start(helper)
        helper.join()

    it.run(turn)
    _come(it, asker)
    it.run(turn)
    assert places == [here, here]


def test_what_a_turn_raises_is_raised_where_it_was_called(it: Handoff, asker: int) -> None:
    def turn() -> None:
        raise ZeroDivisionError("a defect")

    _come(it, asker)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        it.run(turn)
    here = threading.get_native_id()
    it.leave()
    threads = []
    it.run(lambda: threads.append(threading.get_native_id()))
    assert threads == [here]


@pytest.mark.owners("becomes another user")
def test_an_ordinary_user_comes_and_goes_too(asker: int) -> None:
    pid = os.fork()  # noqa: TID251 - root's rights are given up for good
    if pid == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            it = Handoff(lambda: True)
            places = []

            def turn() -> None:
                places.append(os.sched_getscheduler(0))
                it.leave()

            for _ in range(2):
                _come(it, asker)
                it.run(turn)
                it.run(turn)
            os._exit(0 if places == [os.SCHED_IDLE, os.SCHED_OTHER] * 2 else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_processors_that_are_not_ours_are_left_to_others(asker: int) -> None:
    """As after a change of the cpuset: the asker is where the server may not be."""
    turns = []
    pid = os.fork()  # noqa: TID251 - a process of its own may be restricted
    if pid == 0:
        try:
            it = Handoff(lambda: True)
            _come(it, asker)
            before = os.sched_getaffinity(0)
            it._processor = 1 << 9
            it.run(lambda: turns.append(1))
            assert not turns
            assert not it.near
            assert os.sched_getaffinity(0) == before
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.owners("becomes another user")
def test_it_goes_on_where_no_thread_may_be_started(asker: int) -> None:
    turns = []
    pid = os.fork()  # noqa: TID251 - root's rights are given up for good
    if pid == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
            it = Handoff(lambda: True)
            _come(it, asker)
            it.run(lambda: turns.append(1))
            assert (turns, it.near, it.moving) == ([], False, True)
            it.run(lambda: turns.append(1))
            assert turns == [1]
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("busy", [True, False])
def test_it_stays_where_no_processor_is_left(asker: int, busy: bool) -> None:
    it = Handoff(lambda: not busy)
    came = any(_ask(it, asker) for _ in range(1000 * ENOUGH))
    assert came is not busy


def test_a_policy_that_somebody_chose_is_kept(asker: int) -> None:
    def chosen() -> bool:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        it = Handoff(lambda: True)
        return any(_ask(it, asker) for _ in range(1000 * ENOUGH))

    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(chosen).result()


def test_a_processor_is_not_known_of_threads_that_are_not_there(asker: int) -> None:
    assert handoff.processor_of(asker) in os.sched_getaffinity(0)
    assert handoff.processor_of(1 << 30) is None


@pytest.mark.parametrize("left", [0, 1 << 20])
def test_a_processor_is_left_when_fewer_threads_run(left: int) -> None:
    assert handoff.processors_left(left) is (left > 0)


def test_a_mount_is_served_beside_who_asks(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    it = Handoff(lambda: True)
    turns: list[int] = []
    run = it.run

    def watched(turn: Callable[[], None]) -> None:
        turns.append(it.near)
        run(turn)

    it.run = watched  # type: ignore[method-assign]
    with serving(Loopback(os.fsencode(tree)), root, handoff=it):

        def comes() -> bool:
            for number in range(4 * ENOUGH):
                os.chmod(root / "file", 0o600 | number % 8)
            return any(turns)

        wait_until(comes, "the server comes")
        wait_until(lambda: not turns[-1], "it goes")
        assert (root / "file").read_bytes() == b"content"
