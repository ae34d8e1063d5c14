"""The images a build starts from: what is known of each, from the store or from a registry.

On the cached-build path. Invariants: a base is named by the digest of its manifest; the store is asked first, a
registry only for what it lacks (or where ``--pull`` says so).
"""

from __future__ import annotations

from builder.convert.named import LAYOUT_PREFIX
from builder.dockerfile.suggest import nearest
from builder.errors import BaseImageError
from builder.graph import BaseImage, BaseRef
from builder.results import LayerResult, StepResult
from cache.keys import from_key
from layers.config import ImageConfig
from layers.descriptor import Descriptor
from layers.errors import DamagedBlobError
from layers.manifest import Manifest
from layers.platform import ARCHITECTURES, Platform
from layers.reference import Reference
from layers.store import Store
from unionfs.namedtuple import NamedTuple


class Base(NamedTuple):
    """One base; its layers need not be here yet."""

    ref: BaseRef
    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig

    @property
    def image(self) -> BaseImage:
        """What making the graph needs to know."""
        return BaseImage(self.config, str(self.descriptor.digest))

    @property
    def result(self) -> StepResult:
        """The result of the step that pulls it."""
        rootfs = self.config.rootfs
        layers = zip(rootfs.diff_ids, rootfs.chain_ids, self.manifest.layers, strict=True)
        key = from_key(str(self.descriptor.digest), str(self.ref.platform.normalised()))
        return StepResult(key.digest, tuple(LayerResult(*layer) for layer in layers))


def find_in_store(ref: BaseRef, store: Store) -> Base | None:
    """The base as the store has it under its name and for its platform, None when it has not, or has it damaged."""
    if ref.reference.startswith(LAYOUT_PREFIX):
        return find_in_layout(ref, store)
    try:
        image = store.resolve(Reference.parse(ref.reference), ref.platform)
    except DamagedBlobError:
        # the registry may have it whole; where not, `hints_about` tells
        return None
    if image is None or not _fits(image.config.platform, ref.platform):
        return None
    return Base(ref, image.descriptor, image.manifest, image.config)


def hints_about(ref: BaseRef, store: Store) -> tuple[str, ...]:
    """What may explain that ``ref`` is not found: it is here for another platform, or no such platform is known."""
    hints: list[str] = []
    wanted = ref.platform.normalised()
    if wanted.architecture not in ARCHITECTURES:
        near = nearest(wanted.architecture, ARCHITECTURES)
        question = f", did you mean {near}?" if near else ""
        hints.append(f"{wanted.architecture} is no architecture that images are known for{question}")
    try:
        image = None if ref.reference.startswith(LAYOUT_PREFIX) else store.resolve(Reference.parse(ref.reference))
    except DamagedBlobError as error:
        return (*hints, f"it is here, but {error}")
    if image is not None and not _fits(image.config.platform, wanted):
        hints.append(f"{ref.reference} is here for {image.config.platform.normalised()}, not for {wanted}")
    return tuple(hints)


def find_in_layout(ref: BaseRef, store: Store) -> Base | None:
    """The base that ``oci-layout://…`` names, its content copied into ``store``; None when ``ref`` names no layout.

    Raises BaseImageError: there is no such layout, or no such image for the platform in it.
    """
    if not ref.reference.startswith(LAYOUT_PREFIX):
        return None
    from layers.errors import LayersError
    from layers.taking import take_from_layout

    try:
        image = take_from_layout(store, ref.reference.removeprefix(LAYOUT_PREFIX), ref.platform)
    except LayersError as error:
        raise BaseImageError(str(error), source=ref.source) from error
    return Base(ref, image.descriptor, image.manifest, image.config)


def _fits(have: Platform, wanted: Platform) -> bool:
    return have.normalised()[:2] == wanted.normalised()[:2]
