"""The first process of a step that an OCI runtime runs: prepares what the runtime needs, calls it, reaps until the end.

::

    server            this process (pid 1 of a namespace)                          runtime            command
      │ order ─────────▶ /proc of the namespace; a tmpfs in this mount namespace:      │                  │
      │                  root/  mounts/N  texts/N  bundle/config.json  state/          │                  │
      │                  │ fork ──────────────────────────────── create ──────────────▶│ fork ───────────▶│ waits
      │                  │◀──────────────────────────── pid, terminal ─────────────────┘                  │
      │                  │ fork ──────────────────────────────── start ───────────────▶┐ ────────────────▶│ exec
      │ signal ─────────▶│ ─────────────────────────────── kill ─────────────────────────────────────────▶│
      │◀─ exited {status}┤ reaps the command, kills and reaps all others, lets the root go

It takes the place of `init`: what the server says and is told is the same. The root, and what is mounted in it, is
attached in this process's mount namespace alone, so the host never sees it, and the runtime's own state lies there too:
all of it goes with the process, however that ends, and so do the runtime and the command, since they live in its pid
namespace. The runtime's groups are swept by `slice.Slice`.

Invariants: sources of mounts are opened before anything is covered; mount points that were made in the root are removed
after the step, as in the sandbox; the runtime has the step's stdio and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from builder.sandbox import _sys, init, oci, protocol
from builder.sandbox.command import NOT_EXECUTABLE, NOT_FOUND, SETUP_FAILED
from builder.sandbox.furnish import Root, Stage, StageError, open_source
from builder.sandbox.mounts import HARDENED, BaseMount, OwnMount, Texts, Tree, plan_own
from builder.sandbox.seccomp import Call
from builder.sandbox.spec import SandboxSpec
from unionfs import wire
from unionfs.namedtuple import NamedTuple

# the first of these that is a directory is covered; the runtime needs none of them
_PLACES = ("/mnt", "/srv", "/media", "/opt", "/var/tmp")  # noqa: S108  (nothing is written there)
_ID = "step"
_LONGEST_LOG = 64 << 10
_KERNEL_PLACES = frozenset({"proc", "sys", "dev"})
_GROUP_OF_TERMINALS = 5
_MISSING = re.compile(r"executable file (.* )?not found|exec: .*: no such file", re.IGNORECASE)
_REFUSED = re.compile(r'exec: ".*": (permission denied|is a directory)|open executable: ', re.IGNORECASE)
# where version 2 lies beside version 1: a runtime that has nothing to do with groups may refuse such a machine (crun)
_UNIFIED = "/sys/fs/cgroup/unified"


class Handover(NamedTuple):
    """A step's runtime: the program, and what the server knows of the machine.

    ``joins``: the command gets into the step's groups by being started there, and the runtime makes none of its own.
    """

    program: str
    joins: bool
    capabilities: int
    calls: tuple[Call, ...]
    cgroups_path: str | None
    confine_devices: bool


class RefusalError(Exception):
    """The runtime did not run the command; ``status`` is what a shell would say."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def run(handover: Handover, preparation: init.Preparation, report: socket.socket) -> NoReturn:
    """The life of the process; ``report`` leads to the server."""

    def work() -> None:
        try:
            _run(handover, preparation, report)
        except RefusalError as error:
            wire.send(report, {"event": protocol.FAILED, "error": str(error), "status": error.status})

    init.live(work, report)


def _run(handover: Handover, preparation: init.Preparation, report: socket.socket) -> None:
    os.umask(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, init.AWAITED)
    init.join_network(preparation)
    wire.send(report, {"event": protocol.READY})
    received = wire.receive(report)
    if received is None:
        return
    order, fds = protocol.parse_order(received.message, received.fds)
    spec = order.spec
    own = plan_own(spec, order.files)
    bundle = _Bundle(_place(handover.program))
    sources = bundle.open_sources(own, fds.mounts)
    wanted = _points(own, sources)
    bundle.prepare(fds.root, order.root_attributes)
    if handover.joins and os.path.isdir(_UNIFIED):
        with Stage("covering", _UNIFIED):
            _sys.attach_closing(_sys.new_mount("tmpfs", (), HARDENED), _UNIFIED)
    placed = bundle.place(own, sources)
    points = Root()
    points.make_points(fds.root, wanted)
    _make_directory(points, spec, own)
    config = _config(spec, preparation.mounts, own, handover, bundle.path("root"), placed)
    bundle.write("bundle/config.json", json.dumps(config))
    pid = _create(handover, preparation, bundle, spec, fds)
    for fd in received.fds:
        os.close(fd)
    _call(bundle, [handover.program, *bundle.options(handover), "start", _ID], lambda: None)
    ended = init.reap_until(pid)
    init.end_all_others()
    points.remove_points()
    bundle.let_go()
    init.tell_end(report, ended)


def _config(
    spec: SandboxSpec,
    base: Sequence[BaseMount],
    own: Sequence[OwnMount],
    handover: Handover,
    root: str,
    placed: dict[str, str],
) -> dict[str, Any]:
    around = oci.Surroundings(
        root=root,
        sources=placed,
        capabilities=handover.capabilities,
        calls=handover.calls,
        machine=_sys.MACHINE,
        cgroups_path=handover.cgroups_path,
        confine_devices=handover.confine_devices,
        all_groups=_exists_group(_GROUP_OF_TERMINALS),
    )
    return oci.plan_config(spec, base, own, around)


def _exists_group(gid: int) -> bool:
    """Whether the group exists in this user namespace."""
    with open("/proc/self/gid_map", encoding="ascii") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(first <= gid < first + count for first, _outside, count in ranges)


def _points(own: Sequence[OwnMount], sources: Mapping[str, int]) -> list[tuple[str, bool]]:
    """The mount points in the step's own files, and whether they are directories; those of the kernel are not."""
    points: list[tuple[str, bool]] = []
    for mount in own:
        if isinstance(mount, Texts):
            points += [(file.target, False) for file in mount.files]
        elif isinstance(mount, Tree):
            points.append((mount.target, stat.S_ISDIR(os.fstat(sources[mount.target]).st_mode)))
        else:
            points.append((mount.target, True))
    return [point for point in points if point[0].split("/", 2)[1] not in _KERNEL_PLACES]


def _make_directory(points: Root, spec: SandboxSpec, own: Sequence[OwnMount]) -> None:
    """The working directory is there; below a mount it is the runtime's affair."""
    targets = [mount.target.rstrip("/") for mount in own if not isinstance(mount, Texts)]
    below = any(f"{spec.cwd}/".startswith(f"{target}/") for target in targets)
    if not below and spec.cwd.strip("/").split("/", 1)[0] not in _KERNEL_PLACES and not spec.read_only_root:
        with Stage("entering", spec.cwd):
            points.make_directory(spec.cwd, spec.user.uid, spec.user.gid)


def _place(program: str) -> str:
    for place in _PLACES:
        if os.path.isdir(place) and not os.path.realpath(program).startswith(f"{place}/"):
            return place
    raise StageError(f"error preparing the runtime's bundle: none of {', '.join(_PLACES)} is a directory")


class _Bundle:
    """What the runtime is given, in memory, at a place that only this mount namespace has."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._texts: list[tuple[str, str]] = []

    def path(self, name: str) -> str:
        """Where ``name`` lies."""
        return f"{self._place}/{name}"

    def options(self, handover: Handover) -> list[str]:
        """The runtime's own options, for each call."""
        joins = ["--cgroup-manager", "disabled"] if handover.joins else []
        return ["--root", self.path("state"), "--log", self.path("log"), "--log-format", "json", *joins]

    def open_sources(self, own: Sequence[OwnMount], fds: Sequence[int]) -> dict[str, int]:
        """Detached mounts by target, of all trees."""
        sources: dict[str, int] = {}
        for mount in own:
            if isinstance(mount, Tree):
                with Stage(f"opening {mount.kind} source", mount.source):
                    sources[mount.target] = open_source(mount, fds)
        return sources

    def prepare(self, root_fd: int, attributes: int) -> None:
        """The root lies at ``root``, and the processes are those of this pid namespace."""
        with Stage("mounting at", "/proc"):
            _sys.attach_closing(_sys.new_mount("proc", (), HARDENED), "/proc")
        with Stage("staging on", self._place):
            _sys.attach_closing(
                _sys.new_mount("tmpfs", (("mode", "755"),), HARDENED & ~_sys.MOUNT_ATTR_NOEXEC), self._place
            )
            for name in ("root", "mounts", "texts", "bundle", "state"):
                os.mkdir(self.path(name), 0o755)
        with Stage("attaching", "root"):
            _sys.attach_closing(os.dup(root_fd), self.path("root"))
            # the runtime itself makes it read-only, after it has put its mounts there
            _sys.mount_setattr(root_fd, attributes & ~_sys.MOUNT_ATTR_RDONLY, recursive=False)

    def place(self, own: Sequence[OwnMount], sources: dict[str, int]) -> dict[str, str]:
        """Paths by target, of trees and files."""
        placed: dict[str, str] = {}
        for number, (target, fd) in enumerate(sources.items()):
            placed[target] = self.path(f"mounts/{number}")
            with Stage("placing", target):
                if stat.S_ISDIR(os.fstat(fd).st_mode):
                    os.mkdir(placed[target])
                else:
                    self.write(f"mounts/{number}", "")
                _sys.attach_closing(fd, placed[target])
        files = [file for mount in own if isinstance(mount, Texts) for file in mount.files]
        for number, file in enumerate(files):
            with Stage("writing", file.target):
                placed[file.target] = self.write(f"texts/{number}", file.text)
                os.chown(placed[file.target], file.uid, file.gid)
                os.chmod(placed[file.target], file.mode)
        return placed

    def write(self, name: str, text: str) -> str:
        """The file ``name`` holds ``text``; its path."""
        with open(self.path(name), "wb", buffering=0) as file:
            file.write(os.fsencode(text))
        return self.path(name)

    def said(self) -> str:
        """The last error the runtime logged."""
        message = ""
        with contextlib.suppress(OSError), open(self.path("log"), "rb") as file:
            for line in file.read(_LONGEST_LOG).splitlines():
                with contextlib.suppress(ValueError):
                    entry: dict[str, Any] = json.loads(line)
                    if entry.get("level") in {"error", "fatal"}:
                        message = str(entry.get("msg", ""))
        return message

    def let_go(self) -> None:
        """This process holds neither root nor mounts any more."""
        _sys.umount(os.fsencode(self._place), _sys.MNT_DETACH)


def _create(
    handover: Handover,
    preparation: init.Preparation,
    bundle: _Bundle,
    spec: SandboxSpec,
    fds: protocol.RunDescriptors,
) -> int:
    """The id of the command's process, which waits to be started; where it has a terminal, pybuild has it too."""
    words = ["create", "--bundle", bundle.path("bundle"), "--pid-file", bundle.path("pid")]
    words += [] if preparation.pivots else ["--no-pivot"]
    with contextlib.ExitStack() as stack:
        console = None
        if spec.tty:
            console = stack.enter_context(socket.socket(socket.AF_UNIX))
            console.bind(bundle.path("console"))
            console.listen(1)
            words += ["--console-socket", bundle.path("console")]

        def prepare() -> None:
            for fd in preparation.join_fds if handover.joins else ():
                os.write(fd, b"0")
            _take_stdio((None, None, None) if spec.tty else fds.stdio)

        _call(bundle, [handover.program, *bundle.options(handover), *words, _ID], prepare)
        if console is not None:
            _hand_on_console(console, fds.step)
    with open(bundle.path("pid"), encoding="ascii") as file:
        return int(file.read())


def _hand_on_console(listener: socket.socket, step_fd: int) -> None:
    """The terminal that the runtime made is with pybuild."""
    with Stage("taking", "terminal"):
        sender, _address = listener.accept()
        with sender:
            _data, fds, _flags, _peer = socket.recv_fds(sender, 4096, 1)
    with socket.socket(fileno=os.dup(step_fd)) as step:
        wire.send(step, {"event": protocol.CONSOLE}, fds)
    for fd in fds:
        os.close(fd)


def _take_stdio(stdio: Sequence[int | None]) -> None:
    """0, 1 and 2 of this process are ``stdio``, and it has no other descriptors."""
    null = os.open(os.devnull, os.O_RDWR)
    for number, fd in enumerate(stdio):
        os.dup2(null if fd is None else fd, number, inheritable=True)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _call(bundle: _Bundle, argv: list[str], prepare: Callable[[], None]) -> None:
    """The runtime has done what ``argv`` says; ``prepare`` is called in its process.

    Raises:
        RefusalError: it has not.
    """
    pid = os.fork()  # noqa: TID251  (a process of one thread, cloned from the server)
    if pid == 0:
        try:
            prepare()
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execv(argv[0], argv)  # noqa: S606  (no shell is wanted)
        finally:
            os._exit(NOT_EXECUTABLE)
    _pid, status = os.waitpid(pid, 0)
    if status:
        name = os.path.basename(argv[0])
        said = bundle.said() or f"it ended with status {os.waitstatus_to_exitcode(status)} and said nothing"
        raise RefusalError(f"{name} {_refused(argv)}: {said}", _status(said))


def _refused(argv: list[str]) -> str:
    return "can't create the step" if "create" in argv else "can't start the step"


def _status(said: str) -> int:
    """What a shell would say of a command that the runtime could not execute, from the words of runc and crun."""
    if _MISSING.search(said):
        return NOT_FOUND
    return NOT_EXECUTABLE if _REFUSED.search(said) else SETUP_FAILED
