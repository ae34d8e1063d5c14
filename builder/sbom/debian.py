"""Packages of dpkg: ``/var/lib/dpkg/status``, and ``status.d`` of images without dpkg. Source: dpkg(1), deb822(5)."""

from __future__ import annotations

from collections.abc import Iterator

from builder.sbom.packages import Distribution, Package, Reader, first_line, paragraphs, purl

_STATUS = b"var/lib/dpkg/status"
_STATUS_D = b"var/lib/dpkg/status.d/"


def _wants(path: bytes) -> bool:
    return path == _STATUS or (path.startswith(_STATUS_D) and not path.endswith((b".md5sums", b".list")))


def _read(path: bytes, raw: bytes, distribution: Distribution) -> Iterator[Package]:
    for fields in paragraphs(raw.decode("utf-8", "replace")):
        name, version = fields.get("package", ""), fields.get("version", "")
        # files of status.d have no such field
        status = fields.get("status", "install ok installed").split()
        if not name or not version or status[-1] not in {"installed", "triggers-pending", "triggers-awaited"}:
            continue
        source = fields.get("source", "").replace("(", "").replace(")", "").split()
        upstream = "@".join(source[:2])
        qualifiers = {
            "arch": fields.get("architecture", ""),
            "distro": distribution.qualifier,
            "upstream": upstream,
        }
        yield Package(
            kind="deb",
            name=name,
            version=version,
            place="/" + path.decode("utf-8", "replace"),
            purl=purl("deb", distribution.id or "debian", name, version, qualifiers),
            supplier=first_line(fields.get("maintainer", "")),
            homepage=first_line(fields.get("homepage", "")),
            description=first_line(fields.get("description", "")),
        )


READERS = (Reader(_wants, _read),)
