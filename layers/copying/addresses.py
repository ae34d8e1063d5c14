"""Where an image is: the addresses of ``pybuild copy``, spelled as skopeo spells its transports.

====================================  ===================================================
``docker://NAME[:TAG][@DIGEST]``      an image in a registry
``oci:DIR[:NAME]``                    one in an image layout
``oci-archive:FILE[:NAME]``           one in an OCI archive
``docker-archive:FILE[:NAME]``        one in an archive of ``docker save``
``store:NAME``, ``NAME``              one in the store
====================================  ===================================================

A path ends at the first colon, unless it is there as it is written.
"""

from __future__ import annotations

import os
import re
from typing import Literal, cast

from layers.errors import FormatError
from unionfs.namedtuple import NamedTuple

Kind = Literal["docker", "oci", "oci-archive", "docker-archive", "store"]

_PATHS = ("oci", "oci-archive", "docker-archive")
_FORMS = "docker://NAME, oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], NAME"
_FOREIGN = frozenset({"containers-storage", "dir", "docker-daemon", "ostree", "sif", "tarball"})
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")


class Address(NamedTuple):
    """One place. ``path`` is empty for registries and the store, ``name`` where none was given."""

    kind: Kind
    path: str
    name: str

    def __str__(self) -> str:
        """As it may be written."""
        if self.kind == "docker":
            return f"docker://{self.name}"
        return ":".join(part for part in (self.kind, self.path, self.name) if part)


def parse(text: str) -> Address:
    """The place that ``text`` names.

    Raises:
        FormatError: it names none.
    """
    match = _SCHEME.match(text)
    scheme = match.group(1) if match else ""
    rest = text[match.end() :] if match else text
    if scheme == "docker" and match and match.group(2):
        return Address("docker", "", _given(text, rest))
    if scheme in _PATHS and not (match and match.group(2)):
        path, _, name = (rest, "", "") if os.path.exists(rest) else rest.partition(":")
        return Address(cast("Kind", scheme), _given(text, path), name)
    if scheme == "store":
        return Address("store", "", _given(text, rest))
    if scheme in _FOREIGN or (match and match.group(2)):
        raise FormatError(f'"{text}" is no place that images are copied from or to, expected {_FORMS}')
    return Address("store", "", _given(text, text))


def _given(text: str, part: str) -> str:
    if not part:
        raise FormatError(f'"{text}" names nothing, expected {_FORMS}')
    return part
