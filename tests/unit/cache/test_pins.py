"""What a running build relies on is not pruned under it."""

import os
import subprocess
import sys
import threading

import pytest

from cache.pins import Pins, pruning

HOLDER = """
import sys, time
from cache.pins import Pins
pins = Pins(sys.argv[1])
with pins.looking():
    pins.pin(["sha256:held"])
print("held", flush=True)
sys.stdin.read()
"""


def pinned(root):
    with pruning(str(root)) as found:
        return found


@pytest.fixture
def pins(tmp_path):
    made = Pins(str(tmp_path))
    yield made
    made.close()


def test_pins_last_until_they_are_closed(tmp_path, pins):
    with pins.looking():
        pins.pin(["sha256:a", "sha256:b"])
    pins.pin(["sha256:c"])
    other = Pins(str(tmp_path))
    other.pin(["sha256:d"])
    assert pinned(tmp_path) == {"sha256:a", "sha256:b", "sha256:c", "sha256:d"}
    other.close()
    assert pinned(tmp_path) == {"sha256:a", "sha256:b", "sha256:c"}
    pins.close()
    pins.close()
    assert pinned(tmp_path) == frozenset()


def test_nothing_is_pinned_by_looking(tmp_path, pins):
    with pins.looking():
        pins.pin([])
    assert os.listdir(tmp_path / "pins") == ["lock"]


def test_pins_end_with_their_process(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert pinned(tmp_path) == {"sha256:held"}
        holder.kill()
        holder.wait()
        assert pinned(tmp_path) == frozenset()
    assert os.listdir(tmp_path / "pins") == ["lock"]


def test_pruning_waits_for_who_is_looking(tmp_path, pins):
    order = []

    def prune():
        found = pinned(tmp_path)
        order.append(found)

    with pins.looking():
        thread = threading.Thread(target=prune)
        thread.start()
        thread.join(0.2)
        order.append("looked")
        pins.pin(["sha256:late"])
    thread.join()
    assert order == ["looked", {"sha256:late"}]


def test_where_nothing_can_be_written_nothing_is_pinned(tmp_path):
    (tmp_path / "pins").write_text("no directory")
    pins = Pins(str(tmp_path))
    with pins.looking():
        pins.pin(["sha256:a"])
    pins.close()
    assert pinned(tmp_path) == frozenset()
