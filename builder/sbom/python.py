"""Installed Python distributions: ``*.dist-info/METADATA``, ``*.egg-info/PKG-INFO`` and ``*.egg-info`` files.

Source: PyPA specifications, "Recording installed projects" and "Core metadata".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from builder.sbom.packages import Distribution, Package, Reader, first_line, purl

_SEPARATORS = re.compile(r"[-_.]+")
_UNKNOWN = frozenset({"", "UNKNOWN"})


def _wants(path: bytes) -> bool:
    return path.endswith((b".dist-info/METADATA", b".egg-info/PKG-INFO", b".egg-info"))


def _read(path: bytes, raw: bytes, distribution: Distribution) -> Iterator[Package]:
    del distribution
    head = raw.decode("utf-8", "replace").replace("\r\n", "\n").partition("\n\n")[0]
    fields: dict[str, str] = {}
    for line in head.split("\n"):
        name, separator, value = line.partition(":")
        if separator and not line[0].isspace():
            fields.setdefault(name.lower(), value.strip())
    name, version = fields.get("name", ""), fields.get("version", "")
    if not name or not version:
        raise ValueError("it names no distribution and version")
    author = fields.get("author", "")
    email = fields.get("author-email", "")
    license_ = fields.get("license-expression", "") or fields.get("license", "")
    yield Package(
        kind="pypi",
        name=name,
        version=version,
        place="/" + path.decode("utf-8", "replace"),
        purl=purl("pypi", "", _SEPARATORS.sub("-", name).lower(), version, {}),
        supplier=first_line(author if author not in _UNKNOWN else email),
        license="" if license_ in _UNKNOWN else first_line(license_),
        homepage=first_line(fields.get("home-page", "")) if fields.get("home-page") not in _UNKNOWN else "",
        description=first_line(fields.get("summary", "")),
    )


READERS = (Reader(_wants, _read),)
