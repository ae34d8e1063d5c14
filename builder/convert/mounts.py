"""The fields of ``RUN --mount``: ``type=cache,target=/var/cache,sharing=locked``.

Invariants: pure; a field that the mount's type does not know is an error; where a field is given twice the later one
counts; variables are expanded in every value but that of ``from``, since stages must be known before they run.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from builder.convert import paths
from builder.convert.sizes import parse_size
from builder.dockerfile.suggest import did_you_mean
from builder.errors import DockerfileError
from builder.graph import MAIN_CONTEXT, BindMount, CacheMount, Mount, Origin, SecretMount, SshMount, TmpfsMount
from builder.switches import read_switch
from unionfs.namedtuple import NamedTuple

_TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING = ("shared", "private", "locked")
_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_SWITCHES = frozenset({"readonly", "readwrite", "required"})
_ALLOWED = {
    "bind": frozenset({"source", "target", "from", "readonly", "readwrite", "id"}),
    "cache": frozenset(
        {"id", "source", "target", "from", "readonly", "readwrite", "sharing", "mode", "uid", "gid"},
    ),
    "tmpfs": frozenset({"target", "size", "from", "source", "readonly", "readwrite", "id"}),
    "secret": frozenset({"id", "source", "target", "env", "required", "mode", "uid", "gid", "readonly", "readwrite"}),
    "ssh": frozenset({"id", "target", "required", "mode", "uid", "gid", "from", "readonly", "readwrite"}),
}
_ALL_FIELDS = frozenset[str]().union(*_ALLOWED.values()) | {"type"}
_LARGEST_ID = (1 << 32) - 1
_LARGEST_MODE = 0o7777


class Context(NamedTuple):
    """What a mount's fields refer to: the working directory, what ``from`` means, the number of ssh mounts so far.

    ``namespace`` keeps the caches of builds apart that use the same ids; the empty one is that of all others.
    """

    cwd: str
    origin: Callable[[str], Origin]
    ssh_count: int
    namespace: str = ""


def mount_source(text: str) -> str:
    """Return the value of ``from``, the empty string when the mount has none.

    Raises:
        DockerfileError: it holds a variable, or the fields are malformed.
    """
    if "from" not in text.lower():
        return ""
    found = ""
    for name, value in _fields(text):
        if name == "from":
            found = value or ""
    dollar = found.find("$")
    if 0 <= dollar < len(found) - 1:
        message = f"--mount: variables are not expanded in from={found}"
        raise DockerfileError(message, hints=("give the image a name with FROM … AS name and use that",))
    return found


def parse_mount(text: str, expand: Callable[[str], str], context: Context) -> Mount:
    """Return the mount that ``text`` describes.

    Raises:
        DockerfileError: a field or value is wrong, unknown or missing, or the target is ``/``.
    """
    fields = _Fields(text, expand)
    parse = {"bind": _bind, "cache": _cache, "tmpfs": _tmpfs, "secret": _secret, "ssh": _ssh}[fields.kind]
    return parse(fields, context)


def _fields(text: str) -> list[tuple[str, str | None]]:
    """Return names in lower case, aliases resolved, and values; None where there is no ``=``."""
    if '"' in text:
        import csv

        try:
            (parts,) = csv.reader([text], strict=True)
        except csv.Error as error:
            raise DockerfileError(f"--mount: {text!r} is not comma-separated: {error}") from None
    else:
        parts = text.split(",")
    fields: list[tuple[str, str | None]] = []
    for part in parts:
        name, equals, value = part.partition("=")
        name = name.lower()
        fields.append((_ALIASES.get(name, name), value if equals else None))
    return fields


class _Fields:
    """The fields of one mount, read by type."""

    __slots__ = ("_values", "kind")

    def __init__(self, text: str, expand: Callable[[str], str]) -> None:
        self._values: dict[str, str] = {}
        for name, value in _fields(text):
            if name not in _ALL_FIELDS:
                raise DockerfileError(
                    f"--mount: unknown field {name!r} in {text!r}", hints=did_you_mean(name, _ALL_FIELDS)
                )
            if value is None and name not in _SWITCHES:
                raise DockerfileError(f"--mount: the field {name!r} needs a value")
            if name in {"readonly", "readwrite"}:
                self._values.pop("readonly" if name == "readwrite" else "readwrite", None)
            self._values[name] = "true" if value is None else value if name == "from" else expand(value)
        self.kind = self._values.pop("type", "bind").lower()
        if self.kind not in _TYPES:
            raise DockerfileError(f"--mount: unknown type {self.kind!r}", hints=did_you_mean(self.kind, _TYPES))
        for name in self._values:
            if name not in _ALLOWED[self.kind]:
                raise DockerfileError(f"--mount: a {self.kind} mount has no field {name!r}")

    def text(self, name: str, default: str = "") -> str:
        return self._values.get(name) or default

    def given(self, name: str) -> str | None:
        return self._values.get(name)

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self._values.get(name)
        if value is None:
            return default
        found = read_switch(value)
        if found is None:
            raise DockerfileError(f"--mount: {name} must be true or false, got {value!r}")
        return found

    def read_only(self, *, default: bool) -> bool:
        if "readwrite" in self._values:
            return not self.boolean("readwrite", default=True)
        return self.boolean("readonly", default=default)

    def number(self, name: str, default: int, *, base: int = 10, largest: int = _LARGEST_ID) -> int:
        value = self._values.get(name)
        if value is None:
            return default
        try:
            number = int(value, base)
        except ValueError:
            number = -1
        if not (value.isascii() and value.isalnum() and 0 <= number <= largest):
            raise DockerfileError(f"--mount: {value!r} is no {name}")
        return number

    def mode(self, default: int) -> int:
        return self.number("mode", default, base=8, largest=_LARGEST_MODE)

    def target(self, context: Context) -> str:
        target = paths.join(context.cwd, self.text("target"))
        if target == "/":
            raise DockerfileError(f"--mount: a {self.kind} mount needs a target other than /")
        return target


def _bind(fields: _Fields, context: Context) -> Mount:
    origin = _origin(fields, context)
    return BindMount(
        fields.target(context),
        paths.clean(fields.text("source")),
        origin.step,
        read_only=fields.read_only(default=True),
        context=origin.context,
    )


def _origin(fields: _Fields, context: Context) -> Origin:
    name = fields.text("from")
    return context.origin(name) if name else MAIN_CONTEXT


def _cache(fields: _Fields, context: Context) -> Mount:
    origin = _origin(fields, context)
    sharing = fields.text("sharing", "shared").lower()
    if sharing not in _SHARING:
        raise DockerfileError(f"--mount: unknown sharing {sharing!r}", hints=did_you_mean(sharing, _SHARING))
    # the id is the target as written, so that a relative one is shared by all working directories
    identity = fields.text("id") or posixpath.normpath(fields.text("target"))
    mode, uid, gid = fields.mode(0o755), fields.number("uid", 0), fields.number("gid", 0)
    if (mode, uid, gid) != (0o755, 0, 0):
        # a directory is made once and for one owner: who asks for another one gets another cache
        identity = f"{identity} {mode:o} {uid}:{gid}"
    return CacheMount(
        fields.target(context),
        f"{context.namespace}/{identity}" if context.namespace else identity,
        sharing,
        fields.read_only(default=False),
        paths.clean(fields.text("source")),
        origin.step,
        mode,
        uid,
        gid,
        origin.context,
    )


def _tmpfs(fields: _Fields, context: Context) -> Mount:
    try:
        size_bytes = parse_size(fields.text("size", "0"))
    except ValueError as error:
        raise DockerfileError(f"--mount: {error}") from None
    return TmpfsMount(fields.target(context), size_bytes)


def _secret(fields: _Fields, context: Context) -> Mount:
    if fields.text("source") and fields.text("id"):
        raise DockerfileError("--mount: a secret mount takes either id or source")
    target = fields.text("target")
    name = fields.text("source") or fields.text("id") or posixpath.basename(target)
    if not name:
        raise DockerfileError("--mount: a secret mount needs an id or a target")
    variable = fields.given("env")
    if not target and variable is None:
        target = f"/run/secrets/{posixpath.basename(name)}"
    return SecretMount(
        name,
        fields.target(context) if fields.text("target") else target or None,
        name if variable == "" else variable,
        fields.boolean("required", default=False),
        fields.mode(0o400),
        fields.number("uid", 0),
        fields.number("gid", 0),
    )


def _ssh(fields: _Fields, context: Context) -> Mount:
    default = f"/run/buildkit/ssh_agent.{context.ssh_count}"
    return SshMount(
        fields.text("id", "default"),
        fields.target(context) if fields.text("target") else default,
        fields.boolean("required", default=False),
        fields.mode(0o600),
        fields.number("uid", 0),
        fields.number("gid", 0),
    )
