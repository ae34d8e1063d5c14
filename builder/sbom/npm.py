"""Installed npm packages: ``node_modules/NAME/package.json``, and of a scope ``node_modules/@SCOPE/NAME/package.json``.

Source: npm documentation, package.json and folders(5).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

from builder.sbom.packages import Distribution, Package, Reader, first_line, purl

_INSTALLED = re.compile(rb"(?:.*/)?node_modules/(?:@[^/]+/)?[^/@.][^/]*/package\.json\Z", re.DOTALL)


def _wants(path: bytes) -> bool:
    return path.endswith(b"/package.json") and _INSTALLED.match(path) is not None


def _read(path: bytes, raw: bytes, distribution: Distribution) -> Iterator[Package]:
    del distribution
    found: Any = json.loads(raw)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - what a reader raises
    fields = cast("dict[str, Any]", found)
    name, version = _text(fields, "name"), _text(fields, "version")
    if not name or not version:
        raise ValueError("it names no package and version")
    scope, _, short = name.rpartition("/")
    yield Package(
        kind="npm",
        name=name,
        version=version,
        place="/" + path.decode("utf-8", "replace"),
        purl=purl("npm", scope, short, version, {}),
        supplier=_person(fields.get("author")),
        license=_license(fields),
        homepage=_text(fields, "homepage"),
        description=_text(fields, "description"),
    )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return first_line(value) if isinstance(value, str) else ""


def _person(value: object) -> str:
    if isinstance(value, dict):
        return _text(cast("dict[str, Any]", value), "name")
    return first_line(value) if isinstance(value, str) else ""


def _license(fields: dict[str, Any]) -> str:
    value = fields.get("license")
    return _text(cast("dict[str, Any]", value), "type") if isinstance(value, dict) else _text(fields, "license")


READERS = (Reader(_wants, _read),)
