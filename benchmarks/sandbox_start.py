"""From the request to the end of `true`: the sandbox beside bubblewrap and crun, in one run.

    python benchmarks/sandbox_start.py [--count 60] [--pause-ms 20]

Peers are those that are installed; rounds of all are interleaved, so that a busy machine slows all of them. The
sandbox has what a step has (own cgroups, filter, capabilities, masked paths); bubblewrap has no cgroup and no filter.
``--pause-ms 0`` leaves the server no time to make the next child ready. Prints median and best in milliseconds; root
only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from builder.sandbox import _sys
from builder.sandbox.client import SandboxServer
from builder.sandbox.spec import NETWORKS, Network, SandboxSpec

NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")


def make_root(root: Path) -> None:
    for name in ("bin", "proc", "sys", "dev", "etc", "tmp"):
        (root / name).mkdir()
    for name in ("resolv.conf", "hosts", "hostname"):
        (root / "etc" / name).touch()
    busybox = shutil.which("busybox")
    if busybox is None:
        sys.exit("busybox-static is not installed")
    shutil.copy(busybox, root / "bin/true")


def sandbox(server: SandboxServer, root: Path, network: Network = "none") -> Callable[[], None]:
    def once() -> None:
        root_fd = _sys.open_tree(os.fsencode(root), recursive=False)
        with server.run(SandboxSpec(argv=("/bin/true",), network=network), root_fd=root_fd) as running:
            result = running.result()
        os.close(root_fd)
        if result.status != 0:
            sys.exit(f"step failed: {result}")

    return once


def program(*argv: str) -> Callable[[], None]:
    def once() -> None:
        status = os.waitpid(os.posix_spawn(argv[0], argv, os.environ), 0)[1]
        if status != 0:
            sys.exit(f"{argv[0]} failed with {os.waitstatus_to_exitcode(status)}")

    return once


def crun_bundle(directory: Path, root: Path) -> Path:
    subprocess.run(["crun", "spec"], cwd=directory, check=True)
    spec = json.loads((directory / "config.json").read_text())
    spec["process"].update(args=["/bin/true"], terminal=False)
    spec["root"]["path"] = str(root)
    (directory / "config.json").write_text(json.dumps(spec))
    return directory


def contenders(servers: Mapping[Network, SandboxServer], work: Path, root: Path) -> dict[str, Callable[[], None]]:
    found = {
        "pybuild sandbox": sandbox(servers["none"], root),
        "with a private network": sandbox(servers["default"], root, "default"),
        "with the host's network": sandbox(servers["host"], root, "host"),
    }
    if bwrap := shutil.which("bwrap"):
        places = ("--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev")
        found["bubblewrap --unshare-all"] = program(bwrap, "--unshare-all", *places, "/bin/true")
    if crun := shutil.which("crun"):
        (work / "bundle").mkdir()
        bundle = crun_bundle(work / "bundle", root)
        run = ("run", "--bundle", str(bundle), f"pybuild-bench-{os.getpid()}")
        tried = subprocess.run([crun, *run], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            found["crun run"] = program(crun, *run)
        else:
            print(f"crun left out: {tried.stderr.strip().splitlines()[-1]}")
    return found


def without_mixed_groups() -> None:
    """crun refuses a machine whose version 2 hierarchy has controllers beside those of version 1: that one is left out.

    The program goes on in a mount namespace of its own, for all contenders alike.
    """
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    points = [fields[1] for fields in mounts if fields[2] == "cgroup2"]
    if points and any(fields[2] == "cgroup" for fields in mounts):
        script = 'umount "$0" && exec "$@"'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, points[0]]
        os.execvp(command[0], [*command, sys.executable, *sys.argv])


def main() -> None:
    without_mixed_groups()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--pause-ms", type=float, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        # each server keeps a child of its own kind ready
        servers = {network: stack.enter_context(SandboxServer.start(network=network)) for network in NETWORKS}
        work = Path(directory)
        (work / "root").mkdir()
        make_root(work / "root")
        took: dict[str, list[float]] = {}
        runs = contenders(servers, work, work / "root")
        for _ in range(arguments.count):
            for name, once in runs.items():
                time.sleep(arguments.pause_ms / 1000)
                began = time.perf_counter()
                once()
                took.setdefault(name, []).append((time.perf_counter() - began) * 1000)
    for name, times in took.items():
        print(f"{name:26} median {statistics.median(times):6.2f} ms   best {min(times):6.2f} ms")


if __name__ == "__main__":
    main()
