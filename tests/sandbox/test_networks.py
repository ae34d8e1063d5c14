"""The private network of steps, on a machine of the test's own: what goes out, what doesn't come in, what is left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from builder.network.links import End, Links
from builder.network.ports import Port, listening, publish
from builder.sandbox.client import SandboxServer
from harness.machine import (
    INNER,
    MACHINE,
    OUTSIDE,
    PORT,
    Machine,
    greeting,
    inside,
    machine,
    read_setting,
    run,
    write_setting,
)
from harness.sandbox import Ran, Reader, run_in, start
from harness.waiting import wait_until

# the way outside of root of the machine, which is what all of these go
pytestmark = [pytest.mark.sandbox, pytest.mark.kernel("nat")]

ASK_OUTSIDE = f"nc -w 3 {OUTSIDE} {PORT}"
# one datagram that nobody sends again
PING = f"ping -q -c 1 -W 3 {OUTSIDE} >/dev/null"
Run = Callable[[SandboxServer, str], Ran]


@pytest.fixture
def here() -> Iterator[Machine]:
    with machine() as made:
        yield made


@pytest.fixture
def private() -> Iterator[SandboxServer]:
    """A server on the machine of the test."""
    with SandboxServer.start(network="default") as started:
        yield started


def shell(server: SandboxServer, root: Path, script: str) -> Ran:
    return run_in(server, root, "sh", "-c", script, network="default")


def out(server: SandboxServer, root: Path, script: str) -> str:
    ran = shell(server, root, script)
    assert ran.status == 0, (ran.err, ran.result.error)
    assert not ran.result.warnings
    return ran.out.strip()


def test_a_step_goes_out_as_the_machine(here: Machine, private: SandboxServer, rootfs: Path) -> None:
    with greeting(here.outside):
        assert out(private, rootfs, ASK_OUTSIDE) == f"you are {MACHINE}"
    assert out(private, rootfs, "ls /sys/class/net").split() == ["eth0", "lo"]
    assert out(private, rootfs, "readlink /proc/self/ns/net") != os.readlink("/proc/thread-self/ns/net")
    assert out(private, rootfs, "cat /sys/class/net/eth0/mtu") == "1380"  # that of the way to the internet


def test_the_host_is_reached_at_its_addresses_and_not_its_loopback(
    here: Machine, private: SandboxServer, rootfs: Path
) -> None:
    with greeting(here.own), greeting(here.own, "127.0.0.1", PORT + 1):
        assert out(private, rootfs, f"nc -w 3 {MACHINE} {PORT}").startswith("you are 1")
        script = f"nc -w 3 host {PORT}; ! nc -w 1 127.0.0.1 {PORT} && ! nc -w 1 host {PORT + 1}"
        ran = run_in(private, rootfs, "sh", "-c", script, network="default", extra_hosts=("host:host-gateway",))
    assert (ran.status, ran.out[:8]) == (0, "you are "), ran.err


def test_steps_at_once_have_the_same_port_and_nothing_of_each_other(
    here: Machine, private: SandboxServer, rootfs: Path, reader: Reader
) -> None:
    listen = f"ip -4 -o address show eth0; nc -l -p {PORT} </dev/null"
    with start(private, rootfs, ("sh", "-c", listen), network="default", stdout=reader.write_fd) as first:
        reader.started()
        address = reader.wait_for(b"scope").split()[3].split(b"/")[0].decode()
        script = f"nc -l -p {PORT} </dev/null & sleep 0.1; nc -w 1 127.0.0.1 {PORT} && ! nc -w 1 {address} {PORT}"
        ran = shell(private, rootfs, script)
        assert (ran.status, ran.err) == (0, f"nc: {address} ({address}:{PORT}): Host is unreachable\n") or (
            ran.status == 0 and "timed out" in ran.err
        ), ran
        # the first one's is there indeed: the machine itself has a way to it, once a step has been outside
        assert out(private, rootfs, PING) == ""
        run("busybox", "nc", "-w", "3", address, str(PORT))
        assert first.result().status == 0


ADDRESS = "ip -4 -o addr show eth0 | awk '{print $4}'"
SENT = "awk '/^Ip: [0-9]/ {print $11}' /proc/net/snmp"
STEPS = 6


def test_a_network_that_a_step_left_unused_serves_others(here: Machine, private: SandboxServer, rootfs: Path) -> None:
    seen = [out(private, rootfs, f"{SENT}; {ADDRESS}").split() for _ in range(STEPS)]
    assert {sent for sent, _ in seen} == {"0"}
    assert len({address for _, address in seen}) < STEPS


@pytest.mark.parametrize(
    "use",
    ["ping -c 1 127.0.0.1", "nc 127.0.0.1 9", "nc ::1 9", ASK_OUTSIDE],
    ids=["datagram", "connection", "of-six", "outside"],
)
def test_a_network_that_was_used_serves_nobody_else(
    here: Machine, private: SandboxServer, rootfs: Path, use: str
) -> None:
    seen = [
        out(private, rootfs, f"{SENT}; {ADDRESS}; {use} </dev/null >/dev/null 2>&1 || :").split() for _ in range(STEPS)
    ]
    assert [sent for sent, _ in seen] == ["0"] * STEPS
    assert len({address for _, address in seen}) == STEPS


def test_a_network_that_could_be_changed_serves_nobody_else(
    here: Machine, private: SandboxServer, rootfs: Path
) -> None:
    change = "ip addr show lo; ip addr add 192.0.2.77/32 dev lo"
    for _ in range(3):
        ran = run_in(private, rootfs, "sh", "-c", change, network="default", cap_add=("NET_ADMIN",))
        assert (ran.status, "192.0.2.77" in ran.out) == (0, False)
        assert "192.0.2.77" not in out(private, rootfs, "ip addr show lo")


def test_builds_at_once_have_networks_of_their_own(here: Machine, private: SandboxServer, rootfs: Path) -> None:
    address = "ip -4 -o address show eth0 | awk '{print $4}'"
    with greeting(here.outside), SandboxServer.start(network="default") as second:
        networks = {out(server, rootfs, f"{PING}; {address}").rpartition(".")[0] for server in (private, second)}
        assert len(networks) == 2
        assert [name for name in here.links() if name.startswith("pybuild")] == sorted(
            name.split()[2].replace("-", "") for name in here.tables()
        )
        assert out(second, rootfs, ASK_OUTSIDE) == f"you are {MACHINE}"
        second.close()
        assert out(private, rootfs, ASK_OUTSIDE) == f"you are {MACHINE}"


def state(here: Machine) -> tuple[object, ...]:
    return here.links(), here.tables(), here.routes(), [here.forwarding(name) for name in ("all", "up0", "in0")]


def test_nothing_is_left(here: Machine, rootfs: Path) -> None:
    before = state(here)
    with SandboxServer.start(network="default") as server, greeting(here.outside):
        assert out(server, rootfs, ASK_OUTSIDE)
        assert state(here) != before
        assert (here.forwarding("up0"), here.forwarding("all")) == ("1", "0")
    assert state(here) == before
    assert not [name for name in os.listdir("/run/pybuild") if name.endswith(str(os.fstat(here.own).st_ino))]


def test_nothing_is_there_before_a_step_sends_something(here: Machine, private: SandboxServer, rootfs: Path) -> None:
    before = state(here)
    for _ in range(STEPS):
        assert out(private, rootfs, "ping -c 1 127.0.0.1 >/dev/null; ls /sys/class/net").split() == ["eth0", "lo"]
    assert state(here) == before
    assert out(private, rootfs, PING) == ""
    assert state(here) != before
    private.close()
    assert state(here) == before


def test_a_build_that_sent_nothing_leaves_nothing_when_it_is_killed(here: Machine, rootfs: Path) -> None:
    before = state(here)
    server = SandboxServer.start(network="default")
    assert out(server, rootfs, "true") == ""
    kill_all(server)
    assert state(here) == before


def test_many_steps_at_once_send_the_first(here: Machine, private: SandboxServer, rootfs: Path) -> None:
    with ExitStack() as stack:
        running = [stack.enter_context(start(private, rootfs, ("sh", "-c", PING), network="default")) for _ in range(6)]
        assert [one.result().status for one in running] == [0] * 6


def test_connections_that_begin_while_the_way_out_is_made_go_it_too(here: Machine, rootfs: Path) -> None:
    """A first packet that came through before addresses are translated would leave all of its connection so."""
    run("busybox", "ping", "-c", "1", OUTSIDE)  # the machine and what is outside know each other
    several = f"for n in 1 2 3 4 5 6 7 8; do {ASK_OUTSIDE} </dev/null >/tmp/$n & done; wait; cat /tmp/[1-8]"
    for _ in range(8):
        with SandboxServer.start(network="default") as server, greeting(here.outside):
            assert out(server, rootfs, several).splitlines() == [f"you are {MACHINE}"] * 8


def test_a_device_carries_when_both_ends_are_up(here: Machine) -> None:
    with Links() as links:
        links.add_pair(End("near", 5000), End("far", 5001), here.own)
        assert not links.carries(5000)
        links.raise_up(5001)
        wait_until(lambda: links.carries(5000) and links.carries(5001), "both ends to carry")
        with pytest.raises(OSError, match="No such device"):
            links.carries(5002)


def test_addresses_that_another_took_meanwhile_are_hidden(here: Machine, private: SandboxServer, rootfs: Path) -> None:
    address = out(private, rootfs, ADDRESS).partition("/")[0].split(".")
    block = ".".join((*address[:2], str(int(address[2]) & ~3), "0"))
    run("ip", "route", "add", f"{block}/22", "dev", "in0")
    with greeting(here.outside):
        assert out(private, rootfs, ASK_OUTSIDE) == f"you are {MACHINE}"
    assert out(private, rootfs, PING) == ""


def test_a_way_out_that_can_not_be_made_any_more_is_told(here: Machine, private: SandboxServer, rootfs: Path) -> None:
    assert out(private, rootfs, "true") == ""
    run("nft", "add", "table", "inet", "mine")
    run("nft", "add", "chain", "inet", "mine", "closed", "{ type filter hook forward priority 10; policy drop; }")
    told = "the private network has no way out, steps reach nothing outside (chain 'closed' of the firewall's"
    for _ in range(2):
        # the first packet is lost, the next ones are refused, as often as the kernel says so
        ran = shell(private, rootfs, f"{PING}; nc -w 3 {OUTSIDE} {PORT}")
        assert (ran.status, ran.err.count("nc: ")) == (1, 1), ran.err
        assert ran.result.warnings[0].startswith(told)


def test_without_a_tun_device_the_way_out_is_made_at_once(here: Machine, rootfs: Path, tmp_path: Path) -> None:
    before = state(here)
    run("mount", "--bind", str(tmp_path), "/dev/net")
    try:
        with SandboxServer.start(network="default") as server, greeting(here.outside):
            assert out(server, rootfs, "true") == ""
            assert state(here) != before
            assert out(server, rootfs, ASK_OUTSIDE) == f"you are {MACHINE}"
    finally:
        run("umount", "/dev/net")
    assert state(here) == before


def test_what_others_switch_on_stays_on(here: Machine, private: SandboxServer, rootfs: Path) -> None:
    assert out(private, rootfs, PING) == ""
    write_setting("ip_forward", "1")
    private.close()
    assert (read_setting("ip_forward"), here.forwarding("up0")) == ("1", "1")


def hub_of(server: SandboxServer) -> int:
    """The process of the server's hub."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="ascii").split()
    (hub,) = [pid for pid in children if "pybuild-network" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")]
    return int(hub)


def kill_all(server: SandboxServer) -> None:
    """The server and its hub are dead, neither had time to clean up."""
    hub = hub_of(server)
    os.kill(hub, signal.SIGKILL)
    os.kill(server.pid, signal.SIGKILL)
    server.close()


def test_killed_it_leaves_only_what_the_next_takes_away(here: Machine, rootfs: Path) -> None:
    before = state(here)
    server = SandboxServer.start(network="default")
    assert out(server, rootfs, PING) == ""
    kill_all(server)
    wait_until(lambda: state(here)[:3] == before[:3], "devices, tables and routes to be gone")
    assert here.forwarding("up0") == "1"
    with SandboxServer.start(network="default") as following:
        assert out(following, rootfs, "true") == ""
    assert state(here) == before


def test_a_killed_server_leaves_nothing(here: Machine, rootfs: Path) -> None:
    before = state(here)
    server = SandboxServer.start(network="default")
    assert out(server, rootfs, PING) == ""
    os.kill(server.pid, signal.SIGKILL)
    server.close()
    wait_until(lambda: state(here) == before, "the machine to be as before")


def can_connect(namespace: int, address: str) -> bool:
    with inside(namespace):
        done = subprocess.run(["busybox", "nc", "-w", "1", address, str(PORT)], capture_output=True, check=False)
    return done.stdout.startswith(b"you are")


def test_the_machine_becomes_no_router_for_others(
    here: Machine, private: SandboxServer, rootfs: Path, reader: Reader
) -> None:
    serve = f"{PING}; ip -4 -o address show eth0; while :; do echo you are in | nc -l -p {PORT}; done"
    with start(private, rootfs, ("sh", "-c", serve), network="default", stdout=reader.write_fd) as running:
        reader.started()
        address = reader.wait_for(b"scope").split()[3].split(b"/")[0].decode()
        with greeting(here.inner):
            assert not can_connect(here.outside, INNER)
            assert not can_connect(here.outside, address)
            assert can_connect(here.own, INNER)
            assert can_connect(here.own, address)
            assert out(private, rootfs, f"nc -w 3 {INNER} {PORT}").startswith("you are 198.51.100.1")
        running.close()


def rules_of_iptables() -> list[str]:
    return subprocess.run(
        ["iptables-nft", "-S", "FORWARD"], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_a_firewall_of_iptables_lets_steps_through_and_has_its_rules_back(here: Machine, rootfs: Path) -> None:
    for rule in ("-P FORWARD DROP", "-A FORWARD -s 10.99.0.0/16 -j ACCEPT"):
        run("iptables-nft", *rule.split())
    before = rules_of_iptables()
    with greeting(here.outside):
        with SandboxServer.start(network="default") as server:
            assert out(server, rootfs, ASK_OUTSIDE) == f"you are {MACHINE}"
            (device,) = (name for name in here.links() if name.startswith("pybuild"))
            assert sorted(set(rules_of_iptables()) - set(before)) == [
                f"-A FORWARD -i {device} -j ACCEPT",
                f"-A FORWARD -o {device} -j ACCEPT",
            ]
        assert rules_of_iptables() == before
        server = SandboxServer.start(network="default")
        assert out(server, rootfs, PING) == ""
        kill_all(server)
        wait_until(lambda: not [name for name in here.links() if name.startswith("pybuild")], "the device to be gone")
        assert rules_of_iptables() != before
        with SandboxServer.start(network="default") as server:
            assert out(server, rootfs, ASK_OUTSIDE) == f"you are {MACHINE}"
    assert rules_of_iptables() == before


@pytest.mark.parametrize("table", ["inet mine", "inet firewalld"])
def test_a_firewall_that_is_not_for_us_to_change_is_told(here: Machine, rootfs: Path, table: str) -> None:
    policy = "accept" if "firewalld" in table else "drop"
    run("nft", "add", "table", *table.split())
    hook = f"{{ type filter hook forward priority 10; policy {policy}; }}"
    run("nft", "add", "chain", *table.split(), "closed", hook)
    rules = here.rules()
    path = os.environ["PATH"]
    os.environ["PATH"] = ""
    try:
        with SandboxServer.start(network="default") as server, greeting(here.outside):
            ran = shell(server, rootfs, ASK_OUTSIDE)
    finally:
        os.environ["PATH"] = path
    assert (ran.status, ran.out) == (0, f"you are {MACHINE}\n")
    reason = f"bridge: chain 'closed' of the firewall's table '{table.split()[1]}' drops packets"
    assert reason in ran.result.warnings[0]
    assert here.rules() == rules


def test_datagrams_are_led_in_and_back(
    here: Machine, private: SandboxServer, rootfs: Path, probe: Callable[..., Path]
) -> None:
    shutil.copy(probe("datagrams"), rootfs / "bin/datagrams")
    with (
        listening((Port(53, 0, "127.0.0.1", "udp"),)) as listeners,
        start(private, rootfs, ("/bin/datagrams",), network="default") as running,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
    ):
        where = running.whereabouts()
        assert where
        publish(listeners, where[1], where[0])
        os.close(where[1])
        for client in (first, second):
            client.connect(listeners[0].socket.getsockname())
            client.settimeout(0.2)
        wait_until(lambda: answer(first, b"one") == b"one", "an answer")
        assert [answer(second, b"two"), answer(first, b"three")] == [b"two", b"three"]


def answer(client: socket.socket, data: bytes) -> bytes:
    try:
        client.send(data)
        return client.recv(100)
    except OSError:
        return b""
