"""The platform an image is made for: ``os/architecture[/variant]`` in Go's words.

Invariants: a parsed platform is normal, as containerd normalises it: aliases are resolved (``x86_64`` is ``amd64``)
and the default variants ``amd64/v1`` and ``arm64/v8`` are left out; ``arm`` without a variant is ``arm/v7``.
"""

from __future__ import annotations

import os
import re

from layers.errors import FormatError
from unionfs.namedtuple import NamedTuple

_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "loongarch64": ("loong64", ""),
}
ARCHITECTURES = frozenset(
    "386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x wasm".split()  # noqa: SIM905 -- a list of words
)
"""Those that Go compiles for (``go tool dist list``), whose words platforms are given in."""
_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "android"})
_DEFAULT_VARIANTS = {("amd64", "v1"), ("arm64", "v8"), ("arm64", "8")}
_WORD = re.compile(r"[A-Za-z0-9_.-]+\Z")
_MOST_PARTS = 3


class Platform(NamedTuple):
    """What an image runs on; an empty variant is the usual one."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        """``linux/arm/v7``."""
        return "/".join(part for part in self if part)

    def normalised(self) -> Platform:
        """The same platform with aliases resolved and default variants left out."""
        system, architecture, variant = (part.lower() for part in self)
        architecture, implied = _ALIASES.get(architecture, (architecture, ""))
        variant = variant or implied
        if architecture == "arm" and not variant:
            variant = "v7"
        if (architecture, variant) in _DEFAULT_VARIANTS:
            variant = ""
        return Platform("darwin" if system == "macos" else system, architecture, variant)


def parse(text: str) -> Platform:
    """The platform that ``text`` names: ``linux/amd64``, ``linux/arm/v7``, ``arm64`` (of Linux).

    Raises:
        FormatError: the text names no platform.
    """
    parts = text.split("/")
    if len(parts) > _MOST_PARTS or not all(_WORD.match(part) for part in parts):
        raise FormatError(f'platform "{text}" is not of the form os/architecture[/variant]')
    if len(parts) > 1:
        return Platform(*parts).normalised()
    machine = Platform("linux", text).normalised()
    if machine.architecture in ARCHITECTURES:
        return machine
    system = Platform(text, host().architecture).normalised()
    if system.os not in _SYSTEMS:
        raise FormatError(f'platform "{text}" is neither an operating system nor an architecture')
    return system


def host() -> Platform:
    """The platform of this machine."""
    return Platform("linux", os.uname().machine).normalised()
