"""The private network where the host's own can't be changed: through pasta, through slirp4netns, or not at all."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.abilities import AS_NOBODY, plain_interpreter
from harness.machine import ANSWER, MACHINE, OUTSIDE, PORT, Machine, greeting, machine, resolving
from harness.portable import placed_client

pytestmark = pytest.mark.sandbox

ALONE = "no private network can be made here, steps use that of the host"
# in a mount namespace of its own: other subordinate ids and name servers, those of systemd-resolved among them
PREPARE = """set -e
mount --bind "$1/subids" /etc/subuid; mount --bind "$1/subids" /etc/subgid; mount --bind "$1/resolv.conf" /etc/resolv.conf
mount -t tmpfs none /run; mkdir -p /run/systemd/resolve
printf 'nameserver %s\\n' "$2" > /run/systemd/resolve/resolv.conf
shift 2; exec "$@"
"""


@pytest.fixture
def here() -> Iterator[Machine]:
    with machine() as made:
        yield made


class Place:
    """A root where a plain user reaches it, and the programs that one finds."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(
        self,
        script: str,
        *programs: str,
        before: Sequence[str] = AS_NOBODY,
        subordinate: bool = True,
        resolver: str = OUTSIDE,
        **fields: Any,
    ) -> tuple[int, str, list[str]]:
        """Status, output and warnings of a step in the private network."""
        (self.directory / "subids").write_text("nobody:200000:65536\n" if subordinate else "")
        (self.directory / "resolv.conf").write_text(f"nameserver {resolver}\noptions attempts:1 timeout:2\n")
        found = self.directory / "programs"
        found.mkdir()
        for name in (*programs, "newuidmap", "newgidmap"):
            target = shutil.which(name)
            assert target, f"{name} is not installed"
            (found / name).symlink_to(target)
        step = {"argv": ["sh", "-c", script], "network": "default", **fields}
        client = [
            plain_interpreter(),
            "-u",
            placed_client(self.directory / "root"),
            self.directory / "root",
            json.dumps(step),
        ]
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", PREPARE, "sh", self.directory, OUTSIDE]
        command += [*before, "env", "-i", "HOME=/", f"PATH={found}", *client]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stderr
        status, out, err, error, _notes, warnings = json.loads(done.stdout.splitlines()[-1])
        assert error is None, error
        return status, out + err, warnings


@pytest.fixture
def place(open_root: Path) -> Place:
    return Place(open_root.parent)


@pytest.mark.kernel("nat")
@pytest.mark.parametrize("subordinate", [True, False])
@pytest.mark.parametrize("program", ["pasta", "slirp4netns"])
def test_a_program_speaks_for_the_steps(here: Machine, place: Place, program: str, subordinate: bool) -> None:
    # not half closed by the end of stdin: Debian's pasta takes that badly (docs/adr/0020)
    script = (
        f"sleep 1 | timeout 3 nc {OUTSIDE} {PORT}; nslookup -type=a name.example | grep Address; ls /sys/class/net;"
        f"! nc -w 1 127.0.0.1 {PORT + 1}; sleep 1 | timeout 3 nc host {PORT + 2}; true"
    )
    with (
        greeting(here.outside),
        greeting(here.own, "127.0.0.1", PORT + 1),
        greeting(here.own, port=PORT + 2),
        resolving(here.outside, OUTSIDE),
    ):
        extra_hosts = ["host:host-gateway"]
        status, said, warnings = place.run(script, program, subordinate=subordinate, extra_hosts=extra_hosts)
    assert (status, warnings) == (0, []), said
    assert said.count(f"you are {MACHINE}") == 2, said
    assert ANSWER in said
    assert {"eth0", "lo"} <= set(said.split())
    assert f"Address:\t{OUTSIDE}:53" not in said  # it is the program that is asked
    assert [name for name in here.links() if name not in {"lo", "up0", "in0"}] == []


def test_without_a_program_the_network_is_the_hosts_and_that_is_told(here: Machine, place: Place) -> None:
    with greeting(here.outside), resolving(here.own, "127.0.0.53"):
        script = f"nc -w 3 {OUTSIDE} {PORT}; ip -o link; nslookup -type=a name.example 2>&1"
        status, said, warnings = place.run(script, resolver="127.0.0.53")
    assert warnings == [f"{ALONE} (slirp4netns: not installed; pasta: not installed)"]
    assert status == 0, said
    assert "up0" in said
    assert ANSWER in said


def test_root_who_may_not_change_devices_is_told(here: Machine, place: Place) -> None:
    before = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    with greeting(here.outside):
        status, said, warnings = place.run(f"nc -w 3 {OUTSIDE} {PORT}", before=before)
    assert (status, said) == (0, f"you are {MACHINE}\n")
    (warning,) = warnings
    assert warning.startswith(f"{ALONE} (")
    assert "not permitted" in warning


@pytest.mark.kernel("nat")
def test_root_has_the_name_servers_behind_the_stub_of_resolved(here: Machine, place: Place) -> None:
    with resolving(here.outside, OUTSIDE):
        status, said, warnings = place.run("nslookup -type=a name.example", before=("env",), resolver="127.0.0.53")
    assert (status, warnings) == (0, []), said
    assert f"{OUTSIDE}:53" in said
    assert ANSWER in said
