"""What an OCI runtime is told of a step: config.json, made of the same plans that the sandbox carries out itself.

Invariants: pure; capabilities, system calls, mounts, covered paths and devices come from the modules that decide about
them (`caps`, `seccomp`, `mounts`, `devices`), so a step gets the same from either. The network is not mentioned: the
runtime is started in that of the step. Source: runtime-spec 1.0, config.md and config-linux.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from builder.sandbox import _sys, caps, devices, seccomp
from builder.sandbox.mounts import CGROUPS, BaseMount, Filesystem, Mask, OwnMount, ReadOnly, Texts, Tree
from builder.sandbox.spec import SandboxSpec
from unionfs.namedtuple import NamedTuple

VERSION = "1.0.0"
_NAMESPACES = ("pid", "ipc", "uts", "mount", "cgroup")
_WORDS = (
    (_sys.MOUNT_ATTR_RDONLY, "ro"),
    (_sys.MOUNT_ATTR_NOSUID, "nosuid"),
    (_sys.MOUNT_ATTR_NODEV, "nodev"),
    (_sys.MOUNT_ATTR_NOEXEC, "noexec"),
)
_CAPABILITY_SETS = ("bounding", "effective", "permitted")
_ARCHITECTURES = {"x86_64": ("X86_64", "X86"), "aarch64": ("AARCH64", "ARM")}
_TESTS = {"==": "SCMP_CMP_EQ", "<": "SCMP_CMP_LT", ">": "SCMP_CMP_GT", "&": "SCMP_CMP_MASKED_EQ"}
# the first process of a step; here it is the command itself, which may look at its own
_OF_INIT = "/proc/1/"


class Surroundings(NamedTuple):
    """What is not in the specification: who may do what here, and what lies where.

    ``capabilities`` is the mask of those a step may hold. ``sources`` are host paths by target, for trees and texts;
    ``root`` is that of the step. ``cgroups_path`` is where the runtime is to put the step, None where it has to leave
    it. ``all_groups``: there is a group 5 for terminals.
    """

    root: str
    sources: Mapping[str, str]
    capabilities: int
    calls: Sequence[seccomp.Call]
    machine: str
    cgroups_path: str | None
    confine_devices: bool
    all_groups: bool


def plan_config(
    spec: SandboxSpec, base: Sequence[BaseMount], own: Sequence[OwnMount], around: Surroundings
) -> dict[str, Any]:
    """The document of ``spec``, whose mounts are ``base`` and ``own``."""
    insecure = spec.security == "insecure"
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in _NAMESPACES],
        "maskedPaths": [] if insecure else _covered(base, Mask),
        "readonlyPaths": [] if insecure else _covered(base, ReadOnly),
    }
    if around.confine_devices:
        linux["resources"] = {"devices": _device_rules(insecure=insecure)}
    if around.cgroups_path is not None:
        linux["cgroupsPath"] = around.cgroups_path
    filtered = None if insecure else _filter(around)
    if filtered is not None:
        linux["seccomp"] = filtered
    return {
        "ociVersion": VERSION,
        "process": _process(spec, around),
        "root": {"path": around.root, "readonly": spec.read_only_root},
        "hostname": spec.hostname,
        "mounts": [*_base_mounts(base, around), *_own_mounts(own, around)],
        "linux": linux,
    }


def _process(spec: SandboxSpec, around: Surroundings) -> dict[str, Any]:
    uid, gid, groups = spec.user
    additional = spec.user.every_group if groups or around.all_groups else ()
    names = sorted(f"CAP_{name}" for name in caps.names_of(around.capabilities))
    held = {kind: names if uid == 0 or kind == "bounding" else [] for kind in _CAPABILITY_SETS}
    return {
        "terminal": spec.tty,
        "user": {"uid": uid, "gid": gid, "additionalGids": additional, "umask": 0o022},
        "args": list(spec.argv),
        "env": list(spec.env),
        "cwd": spec.cwd,
        "capabilities": {**held, "inheritable": [], "ambient": []},
        "rlimits": [_rlimit(*ulimit) for ulimit in spec.limits.ulimits],
        "noNewPrivileges": False,
    }


def _rlimit(name: str, soft: int, hard: int) -> dict[str, Any]:
    none = (1 << 64) - 1
    return {"type": f"RLIMIT_{name.upper()}", "soft": none if soft < 0 else soft, "hard": none if hard < 0 else hard}


def _covered(base: Sequence[BaseMount], kind: type[Mask | ReadOnly]) -> list[str]:
    return [mount.target for mount in base if isinstance(mount, kind) and not mount.target.startswith(_OF_INIT)]


def _device_rules(*, insecure: bool) -> list[dict[str, Any]]:
    if insecure:
        return [{"allow": True, "access": "rwm"}]
    opened = [
        {"allow": True, "type": "c", "major": major, "minor": -1 if minor is None else minor, "access": "rwm"}
        for major, minor in devices.ALLOWED
    ]
    made = [{"allow": True, "type": kind, "major": -1, "minor": -1, "access": "m"} for kind in "cb"]
    return [{"allow": False, "access": "rwm"}, *made, *opened]


def _base_mounts(base: Sequence[BaseMount], around: Surroundings) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = []
    for mount in base:
        if isinstance(mount, Filesystem) and mount.target != CGROUPS:
            dropped = mount.last_is_optional and not around.all_groups
            mounts.append(_filesystem(mount, mount.options[:-1] if dropped else mount.options))
        elif isinstance(mount, Tree) and mount.kind == "sysfs":
            mounts.append(_bind(mount, mount.source))
    attributes = next((mount.attributes for mount in base if isinstance(mount, Tree) and mount.kind == "cgroup"), None)
    if attributes is not None:
        mounts.append(_filesystem(Filesystem("cgroup", CGROUPS, attributes)))
    return mounts


def _own_mounts(own: Sequence[OwnMount], around: Surroundings) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = []
    for mount in own:
        match mount:
            case Filesystem():
                mounts.append(_filesystem(mount))
            case Tree():
                mounts.append(_bind(mount, around.sources[mount.target]))
            case Texts():
                for file in mount.files:
                    # a script is there to be executed
                    words = ["bind", "ro", "nosuid", "nodev", *(() if file.mode & 0o111 else ("noexec",))]
                    mounts.append(
                        {
                            "destination": file.target,
                            "type": "bind",
                            "source": around.sources[file.target],
                            "options": words,
                        }
                    )
    return mounts


def _filesystem(mount: Filesystem, options: Sequence[tuple[str, str | None]] | None = None) -> dict[str, Any]:
    pairs = mount.options if options is None else options
    words = [*_attributes(mount.attributes), *(name if value is None else f"{name}={value}" for name, value in pairs)]
    return {"destination": mount.target, "type": mount.kind, "source": mount.kind, "options": words}


def _bind(mount: Tree, source: str) -> dict[str, Any]:
    words = ["rbind", "rprivate", *_attributes(mount.attributes)]
    return {"destination": mount.target, "type": "bind", "source": source, "options": words}


def _attributes(attributes: int) -> list[str]:
    return [word for bit, word in _WORDS if attributes & bit]


def _filter(around: Surroundings) -> dict[str, Any] | None:
    """The filter of system calls as libseccomp takes it; None on a machine whose calls are not known."""
    architectures = _ARCHITECTURES.get(around.machine)
    if architectures is None:
        return None
    rules = seccomp.plan_rules(caps.names_of(around.capabilities), around.calls)
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": [f"SCMP_ARCH_{name}" for name in architectures],
        "syscalls": [_rule(rule) for rule in rules],
    }


def _rule(rule: seccomp.Rule) -> dict[str, Any]:
    action = {"action": "SCMP_ACT_ALLOW"} if not rule.errno else {"action": "SCMP_ACT_ERRNO", "errnoRet": rule.errno}
    document: dict[str, Any] = {"names": list(rule.names), **action}
    if rule.test is not None:
        how, value = rule.test
        document["args"] = [{"index": 0, "value": value, "valueTwo": 0, "op": _TESTS[how]}]
    return document
