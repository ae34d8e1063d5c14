"""Everything JSON in image layouts and OCI archives, compared with image-spec's own schemas.

    python tests/conformance/image_spec.py CHECKOUT LAYOUT|ARCHIVE...

CHECKOUT is a tree of github.com/opencontainers/image-spec. What does not validate is on stdout, one line each; the last
line counts. Status 0 when everything validates and there was something.
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

SCHEMAS = {
    "application/vnd.oci.image.index.v1+json": "image-index-schema.json",
    "application/vnd.oci.image.manifest.v1+json": "image-manifest-schema.json",
    "application/vnd.oci.image.config.v1+json": "config-schema.json",
}


class Files:
    """The files of a layout, in a directory or an archive."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._members: dict[str, bytes] = {}
        if not path.is_dir():
            with tarfile.open(path) as tar:
                for info in tar:
                    content = tar.extractfile(info) if info.isfile() and info.size < 16 << 20 else None
                    if content is not None:
                        self._members[info.name] = content.read()

    def read(self, name: str) -> bytes | None:
        """The content of a file, None where it is not there or no JSON."""
        if self._members:
            return self._members.get(name)
        path = self._path / name
        return path.read_bytes() if path.is_file() else None


def validators(checkout: Path) -> dict[str, Any]:
    """A validator for each schema, by the name of its file."""

    def retrieve(uri: str) -> Resource[Any]:
        # identifiers of parts move the base of references, the names of files tell what is meant
        contents = json.loads((checkout / "schema" / uri.rpartition("/")[2]).read_text())
        return Resource.from_contents(contents, default_specification=DRAFT4)

    registry: Registry[Any] = Registry(retrieve=retrieve)  # type: ignore[call-arg]  # attrs' own signature
    names = [*SCHEMAS.values(), "image-layout-schema.json"]
    schemas = {name: json.loads((checkout / "schema" / name).read_text()) for name in names}
    return {name: jsonschema.Draft4Validator(schema, registry=registry) for name, schema in schemas.items()}


def documents(files: Files) -> Iterator[tuple[str, str, Any]]:
    """Name, schema and content of everything that a layout leads to."""
    layout, index = files.read("oci-layout"), files.read("index.json")
    if layout is None or index is None:
        raise SystemExit("error: no image layout")
    yield "oci-layout", "image-layout-schema.json", json.loads(layout)
    pending = [("index.json", "image-index-schema.json", json.loads(index))]
    while pending:
        name, schema, content = pending.pop()
        yield name, schema, content
        below = [*content.get("manifests", ()), *((content["config"],) if "config" in content else ())]
        for descriptor in below if isinstance(content, dict) else ():
            raw = files.read("blobs/sha256/" + descriptor["digest"].partition(":")[2])
            if descriptor["mediaType"] in SCHEMAS and raw is not None:
                kind = SCHEMAS[descriptor["mediaType"]]
                if kind == "config-schema.json":
                    yield descriptor["digest"], kind, json.loads(raw)
                else:
                    pending.append((descriptor["digest"], kind, json.loads(raw)))


def main() -> int:
    """Validates; prints what does not hold."""
    if len(sys.argv) < 3:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    known = validators(Path(sys.argv[1]))
    count = failures = 0
    for path in map(Path, sys.argv[2:]):
        for name, schema, content in documents(Files(path)):
            count += 1
            for error in known[schema].iter_errors(content):
                failures += 1
                sys.stdout.write(f"{path}: {name}: {error.json_path}: {error.message}\n")
    sys.stdout.write(f"{count} documents, {failures} failures\n")
    return int(failures > 0 or count == 0)


if __name__ == "__main__":
    sys.exit(main())
