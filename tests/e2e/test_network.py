"""Builds and ``pybuild run`` on a machine of their own: the private network, the host's, ports that lead in."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.machine import MACHINE, OUTSIDE, PORT, Machine, greeting, inside, machine
from harness.pybuild import Pybuild
from harness.waiting import wait_until

pytestmark = pytest.mark.root("makes a machine, with a network of its own")

BUSY = "while :; do echo hello from $(hostname) | nc -l -p 80; done"


@pytest.fixture
def here() -> Iterator[Machine]:
    with machine() as made:
        yield made


@pytest.fixture
def store(pybuild: Pybuild) -> Pybuild:
    pybuild.load_base("busybox")
    return pybuild


def write(context: Path, dockerfile: str) -> Path:
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(dockerfile)
    return context


@pytest.mark.kernel("nat")
def test_steps_of_a_build_reach_the_outside_side_by_side(here: Machine, store: Pybuild, tmp_path: Path) -> None:
    listen = f"(echo mine | nc -l -p {PORT} &) && sleep 0.3 && nc -w 3 127.0.0.1 {PORT} >/own"
    stages = [f"FROM busybox AS s{n}\nRUN nc -w 3 {OUTSIDE} {PORT} >/seen{n} && {listen}{n}\n" for n in range(3)]
    copies = "".join(f"COPY --from=s{n} /seen{n} /own{n} /\n" for n in range(3))
    context = write(tmp_path / "context", "".join(stages) + "FROM busybox\n" + copies)
    before = here.links(), here.tables()
    with greeting(here.outside):
        store.run("build", "-q", "-t", "image", context)
    assert store.run("run", "image", "sh", "-c", "cat /seen? /own?").stdout.splitlines() == (
        [f"you are {MACHINE}"] * 3 + ["mine"] * 3
    )
    assert (here.links(), here.tables()) == before


def test_the_hosts_network_is_given_to_who_is_allowed_it(here: Machine, store: Pybuild, tmp_path: Path) -> None:
    context = write(tmp_path / "context", f"FROM busybox\nRUN --network=host nc -w 3 127.0.0.1 {PORT} >/seen\n")
    with greeting(here.own, "127.0.0.1"):
        refused = store.attempt("build", context)
        assert refused.returncode == 1
        assert "Dockerfile:2" in refused.stderr
        assert "RUN --network=host is not allowed in this build" in refused.stderr
        assert "--allow network.host" in refused.stderr
        for words in (("--allow", "network.host"), ("--network", "host", "--no-cache")):
            store.run("build", *words, "-t", "image", context)
            assert store.run("run", "image", "cat", "/seen").stdout == "you are 127.0.0.1\n"


@contextmanager
def running(store: Pybuild, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = store.command("run", *arguments)
    with subprocess.Popen(command, env=store.environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def said(address: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as client:
            client.settimeout(3)
            client.connect((address, port))
            return client.makefile().read()
    except OSError:
        return ""


@pytest.mark.kernel("nat")
def test_a_published_port_leads_to_the_command(here: Machine, store: Pybuild) -> None:
    with running(store, "--hostname", "box", "-p", "8080:80", "busybox", "sh", "-c", BUSY):
        wait_until(lambda: said("127.0.0.1", 8080) == "hello from box\n", "the port to answer")
        wait_until(lambda: said("::1", 8080) == "hello from box\n", "it to answer by IPv6")
        with inside(here.outside):
            wait_until(lambda: said(MACHINE, 8080) == "hello from box\n", "it to answer from outside")
        taken = store.attempt("run", "-p", "8080:80", "busybox", "true")
        assert taken.returncode == 1
        assert "error: port 8080:80/tcp can't be published: address already in use" in taken.stderr


@pytest.mark.kernel("nat")
def test_a_port_of_one_address_and_one_that_is_free(here: Machine, store: Pybuild) -> None:
    with running(store, "--hostname", "box", "-p", "127.0.0.1::80", "busybox", "sh", "-c", BUSY) as process:
        assert process.stderr
        line = process.stderr.readline().split()
        assert (line[0], line[2:]) == ("port", ["leads", "to", "80/tcp"])
        wait_until(lambda: said("127.0.0.1", int(line[1])) == "hello from box\n", "the port to answer")
        assert said(MACHINE, int(line[1])) == ""
