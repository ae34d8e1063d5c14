"""Which packages are in an image, as an SPDX document.

::

    root of the image ── walk, once ──▶ the files a reader asks for ── readers ──▶ packages ── spdx ──▶ document

Read are the databases of dpkg, rpm and apk, the metadata of installed Python distributions, and ``package.json`` of
installed npm packages. Invariants: the image is only read, without a mount; what one file holds that cannot be read is
a note in the document, never a failure; packages come in the order of their kind, name, version and place.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence

from builder.rootfs import RootFs, open_root
from builder.sbom import alpine, debian, npm, python, rpm
from builder.sbom.packages import Distribution, Package, Reader, Scan, read_distribution
from builder.sbom.spdx import TYPE, create_document
from builder.session import Session
from layers.attestation import Predicate
from layers.ensure import ensure_unpacked
from layers.image import Image
from layers.platform import Platform
from layers.reference import Reference

_READERS: tuple[Reader, ...] = (*debian.READERS, *rpm.READERS, *alpine.READERS, *python.READERS, *npm.READERS)
_LARGEST_FILE_BYTES = 256 << 20
_SKIPPED = frozenset({b"proc", b"sys", b"dev"})


def scan_image(session: Session, image: Image, platform: Platform, names: Sequence[Reference]) -> Predicate:
    """The document about the packages of ``image``. Raises LayersError: a layer is damaged or gone."""
    chain = ensure_unpacked(session.store, image.manifest, image.config)
    with open_root(() if chain is None else session.snapshotter.view(chain)) as root:
        scan = Scan((), (), Distribution()) if root is None else scan_root(root)
    title = names[0].name if names else str(image.id)
    created = image.config.created or "1970-01-01T00:00:00Z"
    document = create_document(scan, title=title, platform=platform, identity=str(image.id), created=created)
    return Predicate(TYPE, document, "sbom.spdx.json")


def scan_root(root: RootFs) -> Scan:
    """The packages whose databases and metadata lie in ``root``."""
    distribution = read_distribution(root)
    packages: set[Package] = set()
    notes: list[str] = []
    for path, size in _files(root):
        for reader in _READERS:
            if not reader.wants(path):
                continue
            try:
                if size > _LARGEST_FILE_BYTES:
                    raise ValueError(f"it has {size} bytes")
                raw = root.read_file(b"/" + path, _LARGEST_FILE_BYTES)
                packages.update(reader.read(path, raw or b"", distribution))
            except (ValueError, OSError, RecursionError) as error:
                notes.append(f"{path.decode('utf-8', 'replace')} cannot be read: {error}")
    return Scan(tuple(sorted(packages)), tuple(notes), distribution)


def _files(root: RootFs) -> Iterable[tuple[bytes, int]]:
    """Paths, without the slash they begin with, and sizes of regular files."""
    for entry in root.walk(b"", visit=_visit):
        if stat.S_ISREG(entry.mode):
            yield entry.path, entry.size


def _visit(path: bytes, directory: bool) -> tuple[bool, bool]:
    return True, directory and path not in _SKIPPED
