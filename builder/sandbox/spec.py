"""What one step is to run in, and what came of it: values that cross to the sandbox server as JSON.

Invariants: values are immutable and complete: users are numbers, paths are absolute, nothing is looked up later;
``from_json(to_json(value)) == value``; a document that breaks its type is a `SpecError` that names the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast, get_args

from builder import limits as step_limits
from builder.limits import DeviceRate, LimitError, Limits, Ulimit
from unionfs.namedtuple import NamedTuple

HOSTNAME = "pybuildsandbox"

Network = Literal["none", "host", "default"]
"""``default`` is a private network, as far as one can be made."""
NETWORKS: tuple[Network, ...] = get_args(Network)
Security = Literal["sandbox", "insecure"]
T = TypeVar("T")


class SpecError(Exception):
    """A specification is malformed or contradicts itself."""


class User(NamedTuple):
    """Who the command is; supplementary groups are numbers too."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()

    @property
    def every_group(self) -> tuple[int, ...]:
        """The supplementary groups that a process gets: the primary one is among them.

        Else a file that shuts that group out would let in a process that has left it (CVE-2022-36109).
        """
        return tuple(dict.fromkeys((self.gid, *self.groups)))


class Bind(NamedTuple):
    """A piece of the host, or a mount descriptor, at ``target``.

    ``source`` is a host path, or empty where ``fd`` is the index of a descriptor handed over with the step.
    ``kind`` is only a word for messages: bind, cache, secret, ssh.
    """

    source: str
    target: str
    read_only: bool = True
    kind: str = "bind"
    fd: int | None = None


class Tmpfs(NamedTuple):
    """A fresh memory filesystem at ``target``; without a size, half of the memory."""

    target: str
    size_bytes: int | None = None
    mode: int = 0o1777


class File(NamedTuple):
    """A file that is there while the step runs, read-only, never on a disk; ``text`` may hold surrogate escapes."""

    target: str
    text: str
    mode: int = 0o444
    uid: int = 0
    gid: int = 0


class Runtime(NamedTuple):
    """The OCI runtime that runs a step; ``joins_groups``: it can leave control groups to whoever starts it."""

    program: str
    joins_groups: bool


class SandboxSpec(NamedTuple):
    """One step.

    ``env`` holds ``NAME=value``; ``cap_add`` and ``cap_drop`` are names without ``CAP_``, or ``ALL``;
    ``extra_hosts`` are ``name:address``; ``cgroup_parent`` is a path below the cgroup root, None for the builder's own;
    without a ``runtime`` the step is run here; with ``ignore_chown`` giving files away does nothing and succeeds.
    """

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: User = User()
    hostname: str = HOSTNAME
    network: Network = "none"
    binds: tuple[Bind, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    files: tuple[File, ...] = ()
    limits: Limits = Limits()
    security: Security = "sandbox"
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    read_only_root: bool = False
    cgroup_parent: str | None = None
    extra_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    tty: bool = False
    runtime: Runtime | None = None
    ignore_chown: bool = False

    def to_json(self) -> dict[str, Any]:
        """The document `from_json` reads."""
        document = self._asdict()
        document["user"] = self.user._asdict()
        document["runtime"] = self.runtime._asdict() if self.runtime else None
        document["binds"] = [bind._asdict() for bind in self.binds]
        document["tmpfs"] = [tmpfs._asdict() for tmpfs in self.tmpfs]
        document["files"] = [file._asdict() for file in self.files]
        document["limits"] = {
            **self.limits._asdict(),
            "ulimits": [ulimit._asdict() for ulimit in self.limits.ulimits],
            "device_rates": [rate._asdict() for rate in self.limits.device_rates],
        }
        return document


class Oom(NamedTuple):
    """The step's memory ran out: at which limit, and the most it ever used."""

    limit_bytes: int
    peak_bytes: int


class SandboxResult(NamedTuple):
    """How a step ended.

    ``status`` is what a shell would show: the exit status, or 128 + ``signal``; 125 where the sandbox itself failed,
    126 and 127 where the command could not be run. ``error`` names the stage that failed. ``notes`` tell what the
    sandbox had to do without, ``warnings`` what of that the user should know. ``pids_refused`` is how often the limit
    on processes was met. A number is None where nobody counted. ``ended_ns`` is when the command ended
    (CLOCK_MONOTONIC), 0 where nobody saw it.
    """

    status: int
    signal: int | None = None
    oom: Oom | None = None
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    memory_peak_bytes: int | None = None
    pids_peak: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    pids_refused: int = 0
    ended_ns: int = 0

    def to_json(self) -> dict[str, Any]:
        """The document `result_from_json` reads."""
        return {**self._asdict(), "oom": self.oom._asdict() if self.oom else None}


def spec_from_json(document: Mapping[str, Any]) -> SandboxSpec:
    """The specification of ``document``.

    Raises:
        SpecError: a field is missing, unknown, of another type or out of range.
    """
    fields = dict(document)
    limits = dict(_typed(fields, "limits", dict, default={}))
    limits["ulimits"] = _records(Ulimit, limits.get("ulimits", ()))
    limits["device_rates"] = _records(DeviceRate, limits.get("device_rates", ()))
    spec = _record(
        SandboxSpec,
        {
            **fields,
            "user": _user(_typed(fields, "user", dict, default={})),
            "runtime": _record(Runtime, fields["runtime"]) if fields.get("runtime") else None,
            "binds": _records(Bind, fields.get("binds", ())),
            "tmpfs": _records(Tmpfs, fields.get("tmpfs", ())),
            "files": _records(File, fields.get("files", ())),
            "limits": _record(Limits, limits),
            **{name: _strings(fields, name) for name in _STRING_LISTS},
        },
    )
    check(spec)
    return spec


def parse_network(value: object) -> Network:
    """The network called ``value``; ``none`` where there is none of that name."""
    found: Network = "none"
    for network in NETWORKS:
        if network == value:
            found = network
    return found


def result_from_json(document: Mapping[str, Any]) -> SandboxResult:
    """The result of ``document``; raises `SpecError` where it is none."""
    oom = document.get("oom")
    return _record(
        SandboxResult,
        {
            **document,
            "oom": _record(Oom, oom) if oom else None,
            "notes": tuple(document.get("notes", ())),
            "warnings": tuple(document.get("warnings", ())),
        },
    )


_STRING_LISTS = ("argv", "env", "cap_add", "cap_drop", "extra_hosts", "dns", "dns_search", "dns_options")


def check(spec: SandboxSpec) -> None:
    """Nothing in ``spec`` contradicts itself.

    Raises:
        SpecError: the first thing that does.
    """
    if not spec.argv or not spec.argv[0]:
        raise SpecError("argv is empty")
    for text in (*spec.argv, *spec.env, spec.cwd):
        if "\0" in text:
            raise SpecError(f"{text!r} holds a zero byte")
    for name, value, allowed in (
        ("network", spec.network, NETWORKS),
        ("security", spec.security, ("sandbox", "insecure")),
    ):
        if value not in allowed:
            raise SpecError(f"{name} is {value!r}, expected one of {', '.join(allowed)}")
    targets = [path.rstrip("/") for path in _targets(spec)]
    for target in targets:
        if targets.count(target) > 1:
            raise SpecError(f"target {target!r} is mounted twice")
    for path in (spec.cwd, *_targets(spec)):
        if not path.startswith("/"):
            raise SpecError(f"path {path!r} is not absolute")
    _check_limits(spec.limits)


def _targets(spec: SandboxSpec) -> tuple[str, ...]:
    return tuple(mount.target for mounts in (spec.binds, spec.tmpfs, spec.files) for mount in mounts)


def _check_limits(limits: Limits) -> None:
    try:
        step_limits.check(limits)
    except LimitError as error:
        raise SpecError(str(error)) from error


def _user(fields: Mapping[str, Any]) -> User:
    return _record(User, {**fields, "groups": tuple(fields.get("groups", ()))})


def _records(kind: Callable[..., T], documents: Sequence[Mapping[str, Any]]) -> tuple[T, ...]:
    return tuple(_record(kind, document) for document in documents)


def _record(kind: Callable[..., T], fields: Mapping[str, Any]) -> T:
    try:
        return kind(**fields)
    except TypeError as error:
        raise SpecError(str(error)) from error


def _typed(fields: Mapping[str, Any], name: str, kind: type, *, default: Any) -> Any:
    value = fields.get(name, default)
    if not isinstance(value, kind):
        raise SpecError(f"{name} is {type(value).__name__}, expected {kind.__name__}")
    return value


def _strings(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value: Any = fields.get(name, ())
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in cast("list[Any]", value)):
        raise SpecError(f"{name} is no list of strings")
    return tuple(cast("list[str]", value))
