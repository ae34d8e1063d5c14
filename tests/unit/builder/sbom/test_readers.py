"""Package databases and metadata, as packages; documents as SPDX has them."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import struct
from pathlib import Path

import pytest

from builder.rootfs import open_root
from builder.sbom import scan_root
from builder.sbom.packages import Distribution, Package, Scan
from builder.sbom.spdx import create_document
from layers.platform import Platform

OS_RELEASE = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'

STATUS = """Package: bash
Status: install ok installed
Maintainer: Matthias Klose <doko@debian.org>
Architecture: amd64
Source: bash (5.2.15-2)
Version: 5.2.15-2+b2
Description: GNU Bourne Again SHell
 Bash is an sh-compatible command language interpreter
Homepage: http://tiswww.case.edu/php/chet/bash/bashtop.html

Package: gone
Status: deinstall ok config-files
Version: 1

Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1:1.2.13
"""

DISTROLESS = "Package: tzdata\nVersion: 2024a-0\nArchitecture: all\nMaintainer: A <a@b.c>\n"

APK = """C:Q1abc=
P:musl
V:1.2.4-r2
A:x86_64
T:the musl c library
U:https://musl.libc.org/
L:MIT
o:musl
m:Timo <t@alpine>
F:lib
R:libc.musl-x86_64.so.1

P:busybox
V:1.36.1-r5
A:x86_64
o:bb
"""

METADATA = """Metadata-Version: 2.1
Name: My_Package
Version: 1.0
Summary: what it does
Author-email: Ann <ann@example.org>
License: MIT License
Home-page: https://example.org

Version: 9 is only text
"""


def rpm_header(values: dict[int, str | int]) -> bytes:
    index, data = b"", b""
    for tag, value in values.items():
        kind = 4 if isinstance(value, int) else 6
        index += struct.pack(">iiii", tag, kind, len(data), 1)
        data += struct.pack(">i", value) if isinstance(value, int) else value.encode() + b"\0"
    return struct.pack(">ii", len(values), len(data)) + index + data


RPM = {1000: "bash", 1001: "5.2", 1002: "1.fc39", 1003: 2, 1011: "Fedora Project", 1014: "GPL-3.0-or-later",
       1022: "x86_64", 1044: "bash-5.2-1.fc39.src.rpm"}  # fmt: skip
KEY = {1000: "gpg-pubkey", 1001: "1", 1002: "2"}


def write_sqlite(path: Path, *, journal: str = "DELETE") -> None:
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA journal_mode={journal}")
        database.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
        database.executemany("INSERT INTO Packages (blob) VALUES (?)", [(rpm_header(RPM),), (rpm_header(KEY),)])
    database.close()


def ndb() -> bytes:
    header = struct.pack("<8I", int.from_bytes(b"RpmP", "little"), 0, 1, 2, 1, 0, 0, 0)
    blob = rpm_header(RPM)
    slot = struct.pack("<4I", int.from_bytes(b"Slot", "little"), 1, 4096 // 16, len(blob) // 16 + 3)
    empty = struct.pack("<4I", int.from_bytes(b"Slot", "little"), 0, 0, 0)
    page = (header + slot).ljust(4096, b"\0")
    page = header + slot + empty * ((4096 - len(header) - len(slot)) // 16)
    return page + struct.pack("<4I", int.from_bytes(b"BlbS", "little"), 1, 0, len(blob)) + blob


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "os-release").write_text(OS_RELEASE)
    return tmp_path


def put(root: Path, path: str, content: str | bytes) -> None:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content if isinstance(content, bytes) else content.encode())


def scan(root: Path) -> Scan:
    with open_root([root]) as opened:
        assert opened is not None
        return scan_root(opened)


def only(root: Path) -> Package:
    [package] = scan(root).packages
    return package


def test_packages_of_dpkg(root: Path) -> None:
    put(root, "var/lib/dpkg/status", STATUS)
    put(root, "var/lib/dpkg/status.d/tzdata", DISTROLESS)
    put(root, "var/lib/dpkg/status.d/tzdata.md5sums", "not a package\n")
    bash, tzdata, zlib = scan(root).packages
    assert (bash.name, bash.version, bash.place) == ("bash", "5.2.15-2+b2", "/var/lib/dpkg/status")
    assert bash.purl == "pkg:deb/debian/bash@5.2.15-2%2Bb2?arch=amd64&distro=debian-12&upstream=bash%405.2.15-2"
    assert bash.supplier == "Matthias Klose <doko@debian.org>"
    assert bash.description == "GNU Bourne Again SHell"
    assert zlib.purl == "pkg:deb/debian/zlib1g@1:1.2.13?arch=amd64&distro=debian-12"
    assert tzdata.place == "/var/lib/dpkg/status.d/tzdata"


def test_packages_of_apk(root: Path) -> None:
    put(root, "etc/os-release", "ID=alpine\nVERSION_ID=3.19.0\n")
    put(root, "lib/apk/db/installed", APK)
    busybox, musl = scan(root).packages
    assert musl.purl == "pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.19.0"
    assert (musl.license, musl.homepage) == ("MIT", "https://musl.libc.org/")
    assert busybox.purl == "pkg:apk/alpine/busybox@1.36.1-r5?arch=x86_64&distro=alpine-3.19.0&upstream=bb"


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_packages_of_rpm_in_sqlite(root: Path, journal: str) -> None:
    put(root, "etc/os-release", "ID=fedora\nVERSION_ID=39\n")
    (root / "usr/lib/sysimage/rpm").mkdir(parents=True)
    write_sqlite(root / "usr/lib/sysimage/rpm/rpmdb.sqlite", journal=journal)
    package = only(root)
    assert (package.name, package.version) == ("bash", "2:5.2-1.fc39")
    assert package.purl == (
        "pkg:rpm/fedora/bash@5.2-1.fc39?arch=x86_64&distro=fedora-39&epoch=2&upstream=bash-5.2-1.fc39.src.rpm"
    )
    assert (package.license, package.supplier) == ("GPL-3.0-or-later", "Fedora Project")


def test_packages_of_rpm_in_ndb(root: Path) -> None:
    put(root, "usr/lib/sysimage/rpm/Packages.db", ndb())
    assert only(root).name == "bash"


def test_python_and_npm_packages(root: Path) -> None:
    put(root, "usr/lib/python3/dist-packages/My_Package-1.0.dist-info/METADATA", METADATA)
    put(root, "usr/lib/python3/dist-packages/old.egg-info", "Name: old\nVersion: 2\nHome-page: UNKNOWN\n")
    put(root, "app/node_modules/left-pad/package.json", json.dumps({"name": "left-pad", "version": "1.3.0"}))
    put(
        root,
        "app/node_modules/@scope/x/package.json",
        json.dumps({"name": "@scope/x", "version": "2.0.0", "license": "MIT", "author": {"name": "Bo"}}),
    )
    put(root, "app/node_modules/left-pad/lib/package.json", "{}")
    put(root, "app/package.json", json.dumps({"name": "app", "version": "1"}))
    scoped, left_pad, mine, old = scan(root).packages
    assert mine.purl == "pkg:pypi/my-package@1.0"
    assert (mine.supplier, mine.license) == ("Ann <ann@example.org>", "MIT License")
    assert (old.purl, old.homepage) == ("pkg:pypi/old@2", "")
    assert left_pad.purl == "pkg:npm/left-pad@1.3.0"
    assert (scoped.purl, scoped.supplier) == ("pkg:npm/%40scope/x@2.0.0", "Bo")


BROKEN = {
    "var/lib/rpm/Packages": b"\0" * 64,
    "var/lib/rpm/rpmdb.sqlite": b"SQLite format 3\0" + b"\xff" * 100,
    "var/lib/rpm/Packages.db": b"RpmP" + b"\0" * 100,
    "usr/lib/sysimage/rpm/Packages.db": b"nothing of the kind",
    "app/node_modules/a/package.json": b"[" * 100_000,
    "app/node_modules/b/package.json": b"[]",
    "lib/python/x.dist-info/METADATA": b"\xff\xfe",
}


def test_what_cannot_be_read_is_noted_and_the_rest_is_found(root: Path) -> None:
    for path, content in BROKEN.items():
        put(root, path, content)
    os.symlink("/absent", root / "var" / "lib" / "link")
    put(root, "var/lib/dpkg/status", STATUS)
    found = scan(root)
    assert [package.name for package in found.packages] == ["bash", "zlib1g"]
    noted = {path for path in BROKEN if any(note.startswith(path) for note in found.notes)}
    # an empty table of pages holds nothing, and is not damaged
    assert noted == BROKEN.keys() - {"var/lib/rpm/Packages.db"}


def test_documents_are_spdx(root: Path) -> None:
    put(root, "var/lib/dpkg/status", STATUS)
    made = [
        create_document(
            scan(root), title="demo:latest", platform=Platform("linux", "amd64"),
            identity="sha256:" + "1" * 64, created="2024-01-02T03:04:05.123Z",
        )
        for _ in range(2)
    ]  # fmt: skip
    document = made[0]
    assert made[0] == made[1]
    assert document["spdxVersion"] == "SPDX-2.3"
    assert document["creationInfo"]["created"] == "2024-01-02T03:04:05Z"
    assert document["documentNamespace"].startswith("urn:uuid:")
    ids = [package["SPDXID"] for package in document["packages"]]
    assert len(set(ids)) == 3
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", one) for one in ids)
    related = {
        (one["spdxElementId"], one["relationshipType"], one["relatedSpdxElement"]) for one in document["relationships"]
    }
    assert related == {("SPDXRef-DOCUMENT", "DESCRIBES", ids[0]), *((ids[0], "CONTAINS", one) for one in ids[1:])}
    bash = document["packages"][1]
    assert bash["supplier"] == "Person: Matthias Klose (doko@debian.org)"
    assert bash["externalRefs"][0]["referenceType"] == "purl"
    required = {"name", "SPDXID", "downloadLocation"}
    assert all(required <= package.keys() for package in document["packages"])


def test_an_image_without_packages_has_a_document_too() -> None:
    nothing = Scan((), (), Distribution())
    document = create_document(
        nothing,
        title="x",
        platform=Platform("linux", "arm64"),
        identity="sha256:" + "2" * 64,
        created="2024-01-01T00:00:00Z",
    )
    assert [package["name"] for package in document["packages"]] == ["x"]
    assert "comment" not in document
