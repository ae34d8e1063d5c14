"""Which mounts a step has: decided here, by pure functions, before anything is mounted (`furnish` carries it out).

Invariants: a plan is in the order it is carried out, outer targets before inner ones; what the kernel offers at /proc,
/dev and /sys is the same for every step of a kind (`plan_base`), so it can be made ready before a step is known; what
belongs to one step comes after it (`plan_own`).
"""

from __future__ import annotations

from collections.abc import Mapping

from builder.limits import DEFAULT_SHM_BYTES
from builder.sandbox import _sys
from builder.sandbox.spec import File, SandboxSpec
from unionfs.namedtuple import NamedTuple

HARDENED = _sys.MOUNT_ATTR_NOSUID | _sys.MOUNT_ATTR_NODEV | _sys.MOUNT_ATTR_NOEXEC
BASE_TARGETS = ("/proc", "/dev", "/sys")
CGROUPS = "/sys/fs/cgroup"
DEVICES: Mapping[str, tuple[int, int]] = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
DEVICE_DIRECTORIES = ("pts", "shm", "mqueue")
_DEV_BYTES = 64 << 20
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    # of the step's first process, which nobody may trace: a walk of all files goes through, as where there is none
    "/proc/1/fdinfo",
    "/proc/1/task/1/fdinfo",
    "/proc/1/task/2/fdinfo",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class Filesystem(NamedTuple):
    """A new filesystem; where ``last_is_optional``, a refusal of its last option is answered by leaving it out."""

    kind: str
    target: str
    attributes: int
    options: tuple[tuple[str, str | None], ...] = ()
    last_is_optional: bool = False


class Tree(NamedTuple):
    """A copy of the host tree ``source``, or the mount descriptor of index ``fd``, at ``target``."""

    source: str
    target: str
    attributes: int
    kind: str = "bind"
    fd: int | None = None


class Devices(NamedTuple):
    """The nodes and links of /dev: made, or bound from the host where making them is no use."""

    bound: bool


class Texts(NamedTuple):
    """Files with these contents, read-only."""

    files: tuple[File, ...]


class Mask(NamedTuple):
    """What lies at ``target``, if anything does, is empty."""

    target: str


class ReadOnly(NamedTuple):
    """What lies at ``target``, if anything does, can't be written."""

    target: str


class Seal(NamedTuple):
    """The mount at ``target`` itself can't be written any more."""

    target: str


_COVERS: tuple[Mask | ReadOnly, ...] = (
    *(Mask(target) for target in _MASKED),
    *(ReadOnly(target) for target in _READ_ONLY),
)
BaseMount = Filesystem | Tree | Devices | Mask | ReadOnly | Seal
OwnMount = Filesystem | Tree | Texts


def plan_base(
    *,
    insecure: bool,
    device_control: bool,
    cgroups: tuple[tuple[str, str], ...],
    proc_of_host: bool = False,
    sys_of_host: bool = False,
    own_ipc: bool = True,
) -> tuple[BaseMount, ...]:
    """/proc, /dev and /sys of a step.

    ``device_control`` says that a cgroup decides about devices, else the mounts do. ``cgroups`` are host directories by
    the name they get below /sys/fs/cgroup; a single one with an empty name lies there itself. ``proc_of_host`` and
    ``sys_of_host`` take copies of the host's: a user namespace may mount a fresh /proc only where all of the host's is
    seen, and a fresh /sys only for a network namespace of its own (mount_namespaces(7)). Without ``own_ipc`` there
    are no message queues, which would be the host's.
    """
    nodev = 0 if device_control else _sys.MOUNT_ATTR_NODEV
    read_only = 0 if insecure else _sys.MOUNT_ATTR_RDONLY
    return (
        Tree("/proc", "/proc", HARDENED, "proc") if proc_of_host else Filesystem("proc", "/proc", HARDENED),
        Filesystem("tmpfs", "/dev", _sys.MOUNT_ATTR_NOSUID | nodev, (("mode", "755"), ("size", str(_DEV_BYTES)))),
        Devices(bound=not device_control),
        Filesystem(
            "devpts",
            "/dev/pts",
            _sys.MOUNT_ATTR_NOSUID | _sys.MOUNT_ATTR_NOEXEC,
            (("newinstance", None), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")),
            last_is_optional=True,
        ),
        _shm(DEFAULT_SHM_BYTES),
        *((Filesystem("mqueue", "/dev/mqueue", HARDENED),) if own_ipc else ()),
        Tree("/sys", "/sys", HARDENED | read_only, "sysfs")
        if sys_of_host
        else Filesystem("sysfs", "/sys", HARDENED | read_only),
        *_plan_cgroups(cgroups, HARDENED | read_only),
        *(() if insecure else _COVERS),
    )


def plan_own(spec: SandboxSpec, files: Mapping[str, str]) -> tuple[OwnMount, ...]:
    """The mounts that one step asks for, and ``files`` (path → text) that lie over its own."""
    own: list[OwnMount] = []
    if spec.limits.shm_bytes != DEFAULT_SHM_BYTES:
        own.append(_shm(spec.limits.shm_bytes))
    confined = _sys.MOUNT_ATTR_NOSUID | _sys.MOUNT_ATTR_NODEV
    for tmpfs in spec.tmpfs:
        size = (("size", str(tmpfs.size_bytes)),) if tmpfs.size_bytes else ()
        own.append(Filesystem("tmpfs", tmpfs.target, confined, (("mode", f"{tmpfs.mode:o}"), *size)))
    for bind in spec.binds:
        attributes = confined | (_sys.MOUNT_ATTR_RDONLY if bind.read_only else 0)
        own.append(Tree(bind.source, bind.target, attributes, bind.kind, bind.fd))
    own.sort(key=_depth)
    texts = (*(File(target, text, 0o644) for target, text in files.items()), *spec.files)
    return (*((Texts(texts),) if texts else ()), *own)


def _depth(mount: OwnMount) -> int:
    return 0 if isinstance(mount, Texts) else mount.target.rstrip("/").count("/")


def _shm(size_bytes: int) -> Filesystem:
    return Filesystem("tmpfs", "/dev/shm", HARDENED, (("mode", "1777"), ("size", str(size_bytes))))  # noqa: S108  (POSIX's name)


def _plan_cgroups(cgroups: tuple[tuple[str, str], ...], attributes: int) -> tuple[BaseMount, ...]:
    trees = tuple(Tree(path, f"{CGROUPS}/{name}".rstrip("/"), attributes, "cgroup") for name, path in cgroups)
    if not any(name for name, _path in cgroups):
        return trees
    return (Filesystem("tmpfs", CGROUPS, HARDENED, (("mode", "755"),)), *trees, Seal(CGROUPS))
