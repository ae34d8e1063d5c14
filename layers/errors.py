"""What goes wrong with images and their parts.

::

    LayersError
    ├── FormatError            bytes or names that are not what the specification says
    │   ├── ReferenceFormatError   a name of an image
    │   ├── NotAnImageError        a manifest of something else
    │   └── ArchiveError           a tar stream that is broken, hostile or beyond the limits
    ├── ContentMismatchError   bytes that are not what their descriptor says (digest, size)
    │   └── DamagedBlobError       those of a blob that lies here
    ├── PackError              a tree that cannot become a layer
    └── StoreError             the store cannot do what was asked: full, read-only, newer, damaged
        ├── BlobNotFoundError
        └── ImageNotFoundError

Messages are one line: lower case, the subject first, expected and got, paths quoted, no full stop.
"""

from __future__ import annotations


class LayersError(Exception):
    """Root of the errors of this package."""


class FormatError(LayersError, ValueError):
    """Bytes or text that break the format they claim to have."""


class ReferenceFormatError(FormatError):
    """Text that names no image."""


class NotAnImageError(FormatError):
    """A manifest that describes no image but an artifact."""


class ArchiveError(FormatError):
    """An archive that is broken, reaches outside its target, or passes a limit."""


class ContentMismatchError(LayersError):
    """Bytes whose digest or size differs from what their descriptor says."""


class DamagedBlobError(ContentMismatchError):
    """A blob of a store or layout whose content is no longer what its name says."""


class PackError(LayersError):
    """A tree holds what no layer can hold."""


class StoreError(LayersError):
    """The store cannot do what was asked; the message names the path."""


class BlobNotFoundError(StoreError):
    """No blob of that digest is in the store."""


class ImageNotFoundError(StoreError):
    """No image of that name or id is in the store."""
