"""Packages of apk: ``/lib/apk/db/installed``. Source: apk-package(5), "Installed database"."""

from __future__ import annotations

from collections.abc import Iterator

from builder.sbom.packages import Distribution, Package, Reader, first_line, purl

_DATABASES = frozenset({b"lib/apk/db/installed", b"usr/lib/apk/db/installed"})


def _read(path: bytes, raw: bytes, distribution: Distribution) -> Iterator[Package]:
    for block in raw.decode("utf-8", "replace").split("\n\n"):
        fields: dict[str, str] = {}
        for line in block.splitlines():
            key, separator, value = line.partition(":")
            # of each file there are further lines, whose letters come again
            if separator and len(key) == 1:
                fields.setdefault(key, value)
        name, version = fields.get("P", ""), fields.get("V", "")
        if name and version:
            qualifiers = {
                "arch": fields.get("A", ""),
                "distro": distribution.qualifier,
                "upstream": fields.get("o", "") if fields.get("o") != name else "",
            }
            yield Package(
                kind="apk",
                name=name,
                version=version,
                place="/" + path.decode("utf-8", "replace"),
                purl=purl("apk", distribution.id or "alpine", name, version, qualifiers),
                supplier=first_line(fields.get("m", "")),
                license=first_line(fields.get("L", "")),
                homepage=first_line(fields.get("U", "")),
                description=first_line(fields.get("T", "")),
            )


READERS = (Reader(_DATABASES.__contains__, _read),)
