"""Packages as an SPDX document, version 2.3, in JSON (spdx.github.io/spdx-spec/v2.3).

Invariants: pure; equal packages of an equal image give equal documents: ids and the namespace are made of content.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Any

from builder import __version__
from builder.sbom.packages import Package, Scan
from layers.platform import Platform

TYPE = "https://spdx.dev/Document"
_NO_ASSERTION = "NOASSERTION"
_DOCUMENT = "SPDXRef-DOCUMENT"
_ROOT = "SPDXRef-DocumentRoot-Image"
_WORD = re.compile(r"[^A-Za-z0-9.-]+")
_FRACTION = re.compile(r"\.\d+(?=Z\Z)")
_PERSON = re.compile(r"\s*(?P<name>[^<>]*?)\s*(?:<(?P<address>[^<>]*)>)?\s*\Z")
_NAMESPACE = uuid.UUID("2f8f1c3e-6d0b-5a53-9c2d-5d1b8c0f7a10")
"""Namespace of the names that documents are made of (RFC 9562, version 5)."""

Fields = dict[str, Any]


def create_document(scan: Scan, *, title: str, platform: Platform, identity: str, created: str) -> Fields:
    """The document. ``identity`` is the image's id, ``created`` its time in RFC 3339."""
    packages = [_package(package) for package in scan.packages]
    described = [_root(scan, title, platform, identity), *packages]
    document: Fields = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": title,
        "documentNamespace": uuid.uuid5(_NAMESPACE, f"{identity} {platform} {title} {__version__}").urn,
        "creationInfo": {
            "created": _FRACTION.sub("", created),
            "creators": ["Organization: pybuild", f"Tool: pybuild-{__version__}"],
        },
        "packages": described,
        "relationships": [
            _relation(_DOCUMENT, "DESCRIBES", _ROOT),
            *(_relation(_ROOT, "CONTAINS", package["SPDXID"]) for package in packages),
        ],
    }
    if scan.notes:
        document["comment"] = "; ".join(scan.notes)
    return document


def _root(scan: Scan, title: str, platform: Platform, identity: str) -> Fields:
    """The image itself, as the package that contains the others."""
    algorithm, _, digits = identity.partition(":")
    fields: Fields = {
        "name": title,
        "SPDXID": _ROOT,
        "versionInfo": identity,
        "downloadLocation": _NO_ASSERTION,
        "filesAnalyzed": False,
        "checksums": [{"algorithm": algorithm.upper(), "checksumValue": digits}],
        "licenseConcluded": _NO_ASSERTION,
        "licenseDeclared": _NO_ASSERTION,
        "copyrightText": _NO_ASSERTION,
        "primaryPackagePurpose": "CONTAINER",
    }
    system = f", {scan.distribution.title}" if scan.distribution.title else ""
    return {**fields, "description": f"container image for {platform}{system}"}


def _package(package: Package) -> Fields:
    fields: Fields = {
        "name": package.name,
        "SPDXID": _identifier(package),
        "versionInfo": package.version,
        "downloadLocation": _NO_ASSERTION,
        "filesAnalyzed": False,
        "sourceInfo": f"package information from {package.place}",
        "licenseConcluded": _NO_ASSERTION,
        "licenseDeclared": _NO_ASSERTION,
        "copyrightText": _NO_ASSERTION,
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": package.purl,
            }
        ],
    }
    if package.license:
        # what packages write there is rarely an expression of SPDX, and never checked by anybody
        fields["licenseComments"] = f"the package says: {package.license}"
    if package.supplier:
        fields["supplier"] = _supplier(package)
    if package.homepage.startswith(("https://", "http://")):
        fields["homepage"] = package.homepage
    if package.description:
        fields["summary"] = package.description
    return fields


def _supplier(package: Package) -> str:
    """``Person: NAME (ADDRESS)``; what rpm names is an organization."""
    match = _PERSON.match(package.supplier)
    name, address = (package.supplier, "") if match is None else (match["name"], match["address"] or "")
    kind = "Organization" if package.kind == "rpm" else "Person"
    return f"{kind}: {name or address}" + (f" ({address})" if name and address else "")


def _identifier(package: Package) -> str:
    """Unique in the document, and the same in each one: kind, name, and a digest of all that tells packages apart."""
    digest = hashlib.sha256(f"{package.purl} {package.version} {package.place}".encode()).hexdigest()
    return f"SPDXRef-Package-{package.kind}-{_WORD.sub('-', package.name).strip('-')}-{digest[:16]}"


def _relation(one: str, kind: str, other: str) -> Fields:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
