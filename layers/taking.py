"""An image of another program's image layout, taken into a store.

Invariants: the layout is only read; content is compared with its digest on the way; nothing gets a name.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from layers.archive import parts_of
from layers.blobs import BlobStore
from layers.config import ImageConfig
from layers.descriptor import REF_NAME, Descriptor
from layers.errors import ImageNotFoundError
from layers.layout import read_index
from layers.manifest import Index, Manifest, parse
from layers.platform import Platform
from layers.store import Store, StoredImage

_DEFAULT_TAG = "latest"


def take_from_layout(store: Store, address: str, platform: Platform) -> StoredImage:
    """The image ``DIR``, ``DIR:TAG`` or ``DIR@DIGEST`` for ``platform`` is in ``store``, under no name.

    Raises:
        ImageNotFoundError: there is no such image in the layout, or none for the platform.
        LayersError: it is no layout, or content in it is missing or damaged.
    """
    directory, wanted = _split(address)
    blobs = BlobStore(f"{directory}/blobs/sha256", str(directory), _refuse)
    descriptor = _find(read_index(directory), directory, wanted)
    found = parse(blobs.read(descriptor.digest), descriptor.media_type)
    if isinstance(found, Index):
        chosen = found.select(platform)
        if chosen is None:
            raise ImageNotFoundError(f'layout "{address}": it has no image for {platform}')
        descriptor = chosen
        found = parse(blobs.read(descriptor.digest), descriptor.media_type)
        if not isinstance(found, Manifest):
            raise ImageNotFoundError(f'layout "{address}": an index in an index leads to no image')
    for part in parts_of(found):
        if store.blobs.size(part.digest) is None:
            with blobs.open(part.digest) as content:
                store.blobs.put(content, expected=part)
    plain = descriptor._replace(annotations={}, platform=None)
    store.blobs.put(found.raw, expected=plain)
    return StoredImage((), plain, found, ImageConfig.from_bytes(store.blobs.read(found.config.digest)))


def _refuse() -> NoReturn:
    raise AssertionError("a layout that is read has no owner here")


def _split(address: str) -> tuple[Path, str]:
    """The directory, and what follows it: ``TAG``, ``@DIGEST``, or nothing."""
    if Path(address).is_dir():
        return Path(address), ""
    directory, at, digest = address.rpartition("@")
    if at:
        return Path(directory), f"@{digest}"
    directory, colon, tag = address.rpartition(":")
    return (Path(directory), tag) if colon and "/" not in tag else (Path(address), "")


def _find(entries: tuple[Descriptor, ...], directory: Path, wanted: str) -> Descriptor:
    """The entry that ``wanted`` names; without a word the one called latest, or the only one there is."""
    if wanted.startswith("@"):
        for entry in entries:
            if entry.digest == wanted[1:]:
                return entry
    else:
        tag = wanted or _DEFAULT_TAG
        for entry in entries:
            name = entry.annotations.get(REF_NAME, "")
            if name == tag or name.rpartition("/")[2].endswith(f":{tag}"):
                return entry
        if not wanted and len(entries) == 1:
            return entries[0]
    names = ", ".join(sorted({entry.annotations.get(REF_NAME, str(entry.digest)) for entry in entries})) or "none"
    raise ImageNotFoundError(f'layout "{directory}": it has no image {wanted or _DEFAULT_TAG!r}, there are {names}')
