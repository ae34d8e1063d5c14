"""What this machine and this user can do, one probe per marker.

A probe answers None, or the reason why tests with the marker cannot run here. REQUIRE makes that reason a failure.
What the kernel keeps for root of the machine is no ability that is missing: `refuse` skips a test for a plain user alone,
whatever is required.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

CAP_SYS_ADMIN = 21
WHOLE_MACHINE = ["0", "0", "4294967295"]  # the user namespace that the machine began with (user_namespaces(7))
NOBODY = 65534
WITH_IDS = ("unshare", "--user", "--map-root-user", "--map-auto", "--mount", "--")
AS_NOBODY = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
PEERS = ("mmdebstrap", "docker-registry", "dockerd", "docker", "skopeo", "umoci", "buildah", "podman")


def _has_capability(bit: int) -> bool:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> bit & 1)
    return False


def is_root_of_the_machine() -> bool:
    """Whether this is root, and of no user namespace beside the first."""
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text(encoding="ascii").split() == WHOLE_MACHINE


class RefusedToAPlainUser(pytest.skip.Exception):
    """A test that does what the kernel refuses to a plain user was skipped for him."""


def refuse(what: str) -> NoReturn:
    """Skips a test that does what a plain user may not. Root of the machine is refused nothing: there it is a failure."""
    if is_root_of_the_machine():
        pytest.fail(f"skipped for root of the machine: {what}", pytrace=False)
    raise RefusedToAPlainUser(f"not as a plain user: {what}")


def missing_for_root() -> str | None:
    """Whether what only root of the machine may do can be done; in a user namespace of its own a plain user is no such."""
    return None if is_root_of_the_machine() else "needs root of the machine"


def missing_for_limits() -> str | None:
    """Whether the memory of a step can be limited: by root of the machine, or in a group of version 2 that is delegated."""
    of_version_2 = [
        line.removeprefix("0::/")
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        if line.startswith("0::/")
    ]
    for name in of_version_2:
        group = Path("/sys/fs/cgroup", name)
        with contextlib.suppress(FileNotFoundError):
            controllers = (group / "cgroup.controllers").read_text(encoding="ascii").split()
            if "memory" in controllers and os.access(group / "cgroup.subtree_control", os.W_OK):
                return None
    return None if is_root_of_the_machine() else "needs root of the machine, or a control group that is delegated"


def missing_for_owners() -> str | None:
    """Whether this process can give files to others."""
    ids = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    if os.geteuid() == 0 and ids[2::3] != ["1"]:
        return None
    return "needs root, or a user namespace of more ids than one"


@functools.cache
def missing_for_ids() -> str | None:
    """Whether the builds of this user have more users than one."""
    if os.geteuid() == 0:
        return missing_for_owners()
    has_ids = subprocess.run([*WITH_IDS, "true"], capture_output=True, check=False).returncode == 0
    return None if has_ids else "needs ids in /etc/subuid and /etc/subgid"


@functools.cache
def missing_for_fuse() -> str | None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    if not _has_capability(CAP_SYS_ADMIN):
        return "mounting needs CAP_SYS_ADMIN"
    return None


@functools.cache
def missing_for_sandbox() -> str | None:
    if os.geteuid() != 0 or not _has_capability(CAP_SYS_ADMIN):
        return "namespaces, mounts and cgroups need root with CAP_SYS_ADMIN"
    if not os.access("/proc/self/ns/pid", os.F_OK):
        return "the kernel has no pid namespaces"
    return None


@functools.cache
def missing_for_e2e() -> str | None:
    absent = [
        program
        for program in PEERS
        if shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") is None
    ]
    if absent:
        return f"not installed: {' '.join(absent)}"
    return _missing_for_builds_of_a_user() if os.geteuid() != 0 else missing_for_fuse() or missing_for_sandbox()


def _missing_for_builds_of_a_user() -> str | None:
    """What a plain user has to have: pybuild makes its own namespaces."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be opened"
    namespace = ("unshare", "--user", "--map-root-user", "--mount", "true")
    if subprocess.run(namespace, capture_output=True, check=False).returncode != 0:
        return "a plain user needs user namespaces"
    return None


@functools.cache
def plain_interpreter() -> str:
    """The interpreter that a plain user may run here: this one, else the system's.

    Without one a test is skipped, unless REQUIRE names ``sandbox``: then it fails, as any other ability that is missing.
    """
    for path in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([*AS_NOBODY, "env", "-i", path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    message = "no interpreter that a plain user may run"
    return pytest.fail(message) if "sandbox" in required_markers() else pytest.skip(message)


PROBES: dict[str, Callable[[], str | None]] = {
    "fuse": missing_for_fuse,
    "sandbox": missing_for_sandbox,
    "e2e": missing_for_e2e,
}

# what a plain user may not, as markers with what the test does; root of the machine is missing nothing of it
RIGHTS: dict[str, Callable[[], str | None]] = {
    "root": missing_for_root,
    "owners": missing_for_owners,
    "limits": missing_for_limits,
    "ids": missing_for_ids,
}


def _missing_cpuset() -> str | None:
    groups = Path("/proc/cgroups").read_text(encoding="ascii").splitlines()
    return None if any(line.startswith("cpuset\t") for line in groups) else "the kernel has no cpuset"


@functools.cache
def _missing_nat() -> str | None:
    if not is_root_of_the_machine():
        return None  # the tests that need it are not for a plain user (harness.machine)
    made = (
        "unshare",
        "--net",
        "nft",
        "add table ip probe; add chain ip probe out { type nat hook postrouting priority 0; }",
    )
    done = subprocess.run(made, capture_output=True, check=False)
    return None if done.returncode == 0 else "nf_tables of the kernel can't translate addresses of IPv4"


def _missing_loop() -> str | None:
    if not is_root_of_the_machine():
        return None  # the tests that need it are not for a plain user
    try:
        os.close(os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"the kernel has no loop devices: {error.strerror}"
    return None


# what a kernel may be built without, as the argument of the marker "kernel"
KERNEL: dict[str, Callable[[], str | None]] = {
    "cpuset": _missing_cpuset,
    "irq": lambda: (
        None if Path("/proc/irq/default_smp_affinity").exists() else "the kernel has no interrupts to be steered"
    ),
    "loop": _missing_loop,
    "nat": _missing_nat,
}


def required_markers() -> frozenset[str]:
    """The markers whose tests must not be skipped, from the environment's REQUIRE."""
    return frozenset(word for word in os.environ.get("REQUIRE", "").split(",") if word)
