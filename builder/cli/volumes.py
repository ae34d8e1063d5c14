"""What ``pybuild run`` mounts: ``-v SOURCE:TARGET[:OPTIONS]``, ``--mount type=bind,…`` and ``--tmpfs TARGET``.

Invariants: what is mounted is a path of this machine or memory; there are no volumes that are kept by a name, and a
word that looks like one is refused, not made a directory. Sources: ``docker run --volume``, ``--mount``, ``--tmpfs``;
relative paths as podman reads them.
"""

from __future__ import annotations

import argparse
import os
import posixpath
from collections.abc import Sequence

from builder.cli.arguments import parse_bytes
from builder.sandbox.spec import Bind, Tmpfs
from builder.switches import read_switch
from unionfs.namedtuple import NamedTuple

_READ_ONLY, _READ_WRITE = "ro", "rw"
_LABELS = frozenset({"z", "Z"})
# what is done in any case: a copy of the whole tree that propagates nowhere, without setuid programs and devices
_USUAL = frozenset(
    {"bind", "rbind", "private", "rprivate", "nosuid", "nodev", "cached", "delegated", "consistent", "nocopy"}
)
_REFUSED = {
    "shared": "mounts made in the command stay there",
    "rshared": "mounts made in the command stay there",
    "slave": "mounts made meanwhile are not seen by the command",
    "rslave": "mounts made meanwhile are not seen by the command",
    "exec": "programs of a mount can always be run",
    "noexec": "programs of a mount can always be run",
    "suid": "a mount has no setuid programs",
    "dev": "a mount has no devices",
    "U": "owners of files are left as they are",
    "O": "writes go to the directory; what is to be thrown away has to be copied first",
}
_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_FIELDS = {
    "bind": frozenset({"type", "source", "target", "readonly", "bind-propagation"}),
    "tmpfs": frozenset({"type", "target", "tmpfs-size", "tmpfs-mode"}),
}


class Volume(NamedTuple):
    """One mount, and what is to be said of it; one of ``bind`` and ``tmpfs`` is set."""

    bind: Bind | None = None
    tmpfs: Tmpfs | None = None
    note: str = ""

    @property
    def target(self) -> str:
        """Where it lies."""
        place = self.bind or self.tmpfs
        return "" if place is None else place.target


def parse_volume(text: str) -> Volume:
    """The mount of ``-v SOURCE:TARGET[:OPTIONS]``.

    Raises:
        argparse.ArgumentTypeError: it is no such mount, or asks for a volume that is kept by name.
    """
    parts = text.split(":")
    if len(parts) == 1:
        message = f"expected SOURCE:TARGET, got {text!r}: what the command writes is thrown away in any case"
        raise argparse.ArgumentTypeError(message)
    if not 2 <= len(parts) <= 3:  # noqa: PLR2004 - a source, a target, options
        raise argparse.ArgumentTypeError(f"expected SOURCE:TARGET[:OPTIONS], got {text!r}")
    source, target = parts[:2]
    options = parts[2].split(",") if parts[2:] else []
    _check_options(options, text)
    note = f"-v {text}: z and Z have no effect, files get no SELinux labels" if _LABELS & {*options} else ""
    return Volume(Bind(_source(source), _target(target), read_only=_READ_ONLY in options), note=note)


def parse_mount(text: str) -> Volume:
    """The mount of ``--mount type=bind,source=…,target=…[,readonly]`` or ``type=tmpfs,target=…``.

    Raises:
        argparse.ArgumentTypeError: it is no such mount, or asks for a volume that is kept by name.
    """
    fields: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        fields[_ALIASES.get(name.lower(), name.lower())] = value
    kind = fields.get("type", "volume")
    if kind not in _FIELDS:
        known = "no volumes are kept, there is type=bind" if kind == "volume" else "known are bind, tmpfs"
        raise argparse.ArgumentTypeError(f"unknown type {kind!r} of a mount in {text!r}, {known}")
    for name in fields:
        if name not in _FIELDS[kind]:
            known = ", ".join(sorted(_FIELDS[kind]))
            raise argparse.ArgumentTypeError(f"unknown field {name!r} in {text!r}, known of a {kind} are {known}")
    if not fields.get("target"):
        raise argparse.ArgumentTypeError(f"target=PATH is missing in {text!r}")
    target = _target(fields["target"])
    if kind == "tmpfs":
        return Volume(tmpfs=_tmpfs(target, fields.get("tmpfs-size"), fields.get("tmpfs-mode")))
    if not fields.get("source"):
        raise argparse.ArgumentTypeError(f"source=PATH is missing in {text!r}")
    _check_options([word for word in [fields.get("bind-propagation", "")] if word], text)
    return Volume(Bind(_path(fields["source"]), target, read_only=_switch(fields, "readonly", text)))


def parse_tmpfs(text: str) -> Volume:
    """The mount of ``--tmpfs TARGET[:size=SIZE,mode=MODE]``.

    Raises:
        argparse.ArgumentTypeError: it is no such mount.
    """
    target, _, options = text.partition(":")
    fields: dict[str, str] = {}
    for option in filter(None, options.split(",")):
        name, separator, value = option.partition("=")
        if separator and name not in {"size", "mode"}:
            raise argparse.ArgumentTypeError(f"unknown option {name!r} in {text!r}, known are size, mode")
        if not separator and option not in {_READ_WRITE, "exec", "nosuid", "nodev"}:
            raise argparse.ArgumentTypeError(f"unknown option {option!r} in {text!r}, known are size, mode")
        fields[name] = value
    return Volume(tmpfs=_tmpfs(_target(target), fields.get("size"), fields.get("mode")))


def check_targets(volumes: Sequence[Volume]) -> None:
    """Nothing, when every target is there once. Raises argparse.ArgumentTypeError."""
    targets = [volume.target for volume in volumes]
    for target in targets:
        if targets.count(target) > 1:
            raise argparse.ArgumentTypeError(f"target {target!r} is mounted twice")


def _check_options(options: Sequence[str], text: str) -> None:
    for option in options:
        if option in _REFUSED:
            raise argparse.ArgumentTypeError(f"option {option!r} in {text!r}: {_REFUSED[option]}")
        if option not in {_READ_ONLY, _READ_WRITE, *_LABELS, *_USUAL}:
            raise argparse.ArgumentTypeError(f"unknown option {option!r} in {text!r}, known are ro, rw, z, Z")
    if {_READ_ONLY, _READ_WRITE} <= {*options}:
        raise argparse.ArgumentTypeError(f"ro and rw contradict each other in {text!r}")


def _source(text: str) -> str:
    """The path that ``text`` is; a plain word would be the name of a volume."""
    if text and "/" not in text and not text.startswith((".", "~")):
        way = f"./{text} is the directory" if os.path.lexists(text) else "a path begins with / or ./"
        raise argparse.ArgumentTypeError(f"source {text!r} is the name of a volume, and none are kept; {way}")
    return _path(text)


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the source of a mount is empty")
    path = os.path.abspath(text)
    if not os.path.lexists(path):
        raise argparse.ArgumentTypeError(f"source {text!r} of a mount: no such file or directory")
    return os.path.realpath(path)


def _target(text: str) -> str:
    if not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"expected an absolute path in the image, got {text!r}")
    path = posixpath.normpath(text).replace("//", "/")
    if path == "/":
        raise argparse.ArgumentTypeError("nothing can be mounted at '/'")
    return path


def _tmpfs(target: str, size: str | None, mode: str | None) -> Tmpfs:
    try:
        bits = int(mode or "1777", 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o7777:  # noqa: PLR2004 - the bits of chmod(2)
        raise argparse.ArgumentTypeError(f"expected a mode such as 1777, got {mode!r}")
    return Tmpfs(target, None if size is None else parse_bytes(size), bits)


def _switch(fields: dict[str, str], name: str, text: str) -> bool:
    value = fields.get(name, "false")
    # a name alone means yes
    found = read_switch(value or "true")
    if found is None:
        raise argparse.ArgumentTypeError(f"{name} is true or false in {text!r}, got {value!r}")
    return found
