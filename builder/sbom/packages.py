"""What the readers of package databases have in common: a package as a value, the distribution it is of.

Invariants: pure; texts are as they stand in the databases, without characters that end lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from builder.rootfs import RootFs

_OS_RELEASE = (b"/etc/os-release", b"/usr/lib/os-release")
_LARGEST_OS_RELEASE = 1 << 20


class Distribution(NamedTuple):
    """The words of ``os-release`` (os-release(5)); empty where there is none."""

    id: str = ""
    version: str = ""
    title: str = ""

    @property
    def qualifier(self) -> str:
        """``debian-12`` for package URLs."""
        return f"{self.id}-{self.version}" if self.version else self.id


class Package(NamedTuple):
    """One installed package. ``purl`` is its package URL, ``place`` the file that tells of it.

    ``supplier`` is a person or an organization, ``license`` what the package says of itself.
    """

    kind: str
    name: str
    version: str
    place: str
    purl: str
    supplier: str = ""
    license: str = ""
    homepage: str = ""
    description: str = ""


class Scan(NamedTuple):
    """The packages found, sorted; ``notes`` tell what could not be read."""

    packages: tuple[Package, ...]
    notes: tuple[str, ...]
    distribution: Distribution


class Reader(NamedTuple):
    """``wants`` says of a path, without a slash before it, whether it is one to read."""

    wants: Callable[[bytes], bool]
    read: Callable[[bytes, bytes, Distribution], Iterable[Package]]
    """The packages in a file: its path and its content. Raises ValueError where that makes no sense."""


def purl(kind: str, namespace: str, name: str, version: str, qualifiers: Mapping[str, str]) -> str:
    """``pkg:deb/debian/bash@5.2?arch=amd64``. Source: the package URL specification, its rules for building."""
    parts = [quote(part, safe="") for part in (*namespace.split("/"), name) if part]
    kept = "&".join(f"{key}={quote(value, safe=':/')}" for key, value in sorted(qualifiers.items()) if value)
    return (
        f"pkg:{kind}/{'/'.join(parts)}"
        + (f"@{quote(version, safe=':')}" if version else "")
        + (f"?{kept}" if kept else "")
    )


def read_distribution(root: RootFs) -> Distribution:
    """What ``os-release`` of the image says."""
    for path in _OS_RELEASE:
        try:
            raw = root.read_file(path, _LARGEST_OS_RELEASE)
        except OSError:
            continue
        if raw is not None:
            fields = dict(_assignments(raw.decode("utf-8", "replace")))
            return Distribution(fields.get("ID", ""), fields.get("VERSION_ID", ""), fields.get("PRETTY_NAME", ""))
    return Distribution()


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and not name.startswith("#"):
            yield name, value.strip("\"'")


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of a control file (deb822): fields by name in lower case, lines that go on joined by newlines."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.split("\n"):
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0] in " \t":
            if name:
                fields[name] += "\n" + line.strip()
        else:
            key, separator, value = line.partition(":")
            if not separator:
                continue
            name = key.lower()
            fields[name] = value.strip()
    if fields:
        yield fields


def first_line(text: str) -> str:
    """The text as one line: its first, without what a terminal would act on."""
    return "".join(character for character in text.partition("\n")[0] if character.isprintable()).strip()
