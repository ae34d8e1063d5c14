"""The images of a build are put together as they leave: in their form, with what is said of them, in an index or alone.

On the cached-build path. Invariants: each form is made once; a name is given only to what is whole in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from builder.assemble import annotations_at
from builder.events import StepJournal
from builder.exporting import Exports, Output, Push
from builder.finished import Exported, Ready
from builder.options import Annotation
from builder.session import Session
from layers.descriptor import Descriptor
from layers.forms import GZIP, NONE, Form, reshape
from layers.image import Image
from layers.manifest import Index
from layers.media import DOCKER_INDEX, OCI_INDEX
from layers.platform import Platform
from layers.reference import Reference
from layers.store import Store, StoredImage
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from layers.attestation import Predicate

Check = Callable[[], None] | None
"""Called now and then; may raise to stop."""


class Built(NamedTuple):
    """The image of each platform, in its order, and what is said of each."""

    platforms: tuple[Platform, ...]
    images: tuple[Image, ...]
    predicates: tuple[tuple[Predicate, ...], ...]

    @property
    def has_index(self) -> bool:
        """Whether an index holds them together."""
        return len(self.images) > 1 or any(self.predicates)


class Shipped(NamedTuple):
    """In the store: ``root`` is an index or the only manifest, ``images`` are the manifests in their form."""

    root: Descriptor
    images: tuple[tuple[Descriptor, Image], ...]


class Shipper:
    """Puts together what one build leaves, each form once."""

    def __init__(
        self, session: Session, built: Built, annotations: Sequence[Annotation], step: StepJournal, check: Check
    ) -> None:
        self._session = session
        self._built = built
        self._annotations = annotations
        self._step = step
        self._check = check
        self._shipped: dict[tuple[object, ...], Shipped] = {}
        self._compressed: dict[str, int] = {}

    def ship(self, form: Form, names: Sequence[Reference], *, artifact: bool) -> Shipped:
        """The images in ``form`` are in the store; attestations are about them under ``names``.

        Raises:
            LayersError: a layer is damaged or gone, the disk is full.
        """
        named = tuple(names) if any(self._built.predicates) else ()
        key = (form, named, artifact)
        if key not in self._shipped:
            self._shipped[key] = self._ship(form, named, artifact=artifact)
        return self._shipped[key]

    def _ship(self, form: Form, names: Sequence[Reference], *, artifact: bool) -> Shipped:
        built, store = self._built, self._session.store
        several = len(built.images) > 1
        images: list[tuple[Descriptor, Image]] = []
        for platform, image in zip(built.platforms, built.images, strict=True):
            shaped = reshape(store, image, form, check=self._check, report=self._report)
            store.blobs.put(shaped.config_bytes)
            stored = store.blobs.put(shaped.manifest.raw, media_type=shaped.manifest.media_type)
            # the platform that was asked for where there is a choice, else what the image says of itself
            described = platform if several else shaped.config.platform
            said = annotations_at("manifest-descriptor", self._annotations, platform)
            images.append((stored._replace(platform=described, annotations=said), shaped))
        if not built.has_index:
            return Shipped(images[0][0], tuple(images))
        entries = [descriptor for descriptor, _ in images]
        entries += self._attest(entries, names, artifact=artifact)
        said = annotations_at("index", self._annotations, None)
        index = Index.create(entries, said, media_type=DOCKER_INDEX if form.docker else OCI_INDEX)
        root = store.blobs.put(index.raw, media_type=index.media_type)
        return Shipped(
            root._replace(annotations=annotations_at("index-descriptor", self._annotations, None)), tuple(images)
        )

    def _attest(self, images: Sequence[Descriptor], names: Sequence[Reference], *, artifact: bool) -> list[Descriptor]:
        if not any(self._built.predicates):
            return []
        from layers.attestation import attest, image_subjects, statement

        built = self._built
        found: list[Descriptor] = []
        for descriptor, platform, predicates in zip(images, built.platforms, built.predicates, strict=True):
            subjects = image_subjects(descriptor, names, platform)
            statements = [statement(predicate, subjects) for predicate in predicates]
            found.append(attest(self._session.store, descriptor, statements, artifact=artifact))
        return found

    def _report(self, layer: Descriptor, count: int) -> None:
        if not count:
            return
        done = self._compressed[layer.digest] = self._compressed.get(layer.digest, 0) + count
        self._step.progress(f"{layer.digest[:19]} compressing", min(done, layer.size), layer.size)


def export_local(session: Session, built: Built, exports: Exports, step: StepJournal, check: Check = None) -> Exported:
    """The image is in the store under its names, and in the files and directories of the outputs.

    What is to be pushed is in the store in its form, unless that can be had on the way.
    """
    shipper = Shipper(session, built, exports.annotations, step, check)
    store, stored = session.store, exports.stored
    shipped = shipper.ship(stored.form, exports.names, artifact=stored.artifact)
    several = len(built.images) > 1
    image_id = shipped.root.digest if several else shipped.images[0][1].id
    names = _name(session, shipped.root, exports, image_id, step)
    if stored.unpacked:
        from layers.ensure import ensure_unpacked

        for _, image in shipped.images:
            ensure_unpacked(store, image.manifest, image.config)
    for output in exports.outputs:
        _write(session, shipper, built, output)
        _tell(step, f"writing {output.kind} to {output.destination}")
    pushes = [_make_ready(push, shipper, built, exports) for push in exports.pushes]
    return Exported(image_id, shipped.root, tuple(pushes), names)


def _name(session: Session, root: Descriptor, exports: Exports, image_id: str, step: StepJournal) -> tuple[str, ...]:
    """The names that were given; without one the store keeps the image all the same."""
    stored, store = exports.stored, session.store
    _tell(step, f"writing image {image_id}")
    if not stored.listed:
        return ()
    names = list(exports.names)
    plain = [name._replace(tag=None, digest=root.digest) for name in exports.names] if stored.canonical else []
    if stored.prefix:
        plain.append(Reference.parse(stored.prefix)._replace(tag=None, digest=root.digest))
    if not names and not plain:
        store.keep(root)
    for name in (*names, *plain):
        store.tag(name, root)
        _tell(step, f"naming to {name.canonical}")
    return tuple(name.name for name in names)


def export_nowhere(session: Session, built: Built, exports: Exports, step: StepJournal) -> Exported:
    """The image is only ready to be pushed: its names mean nothing here from now on, and layers of it are not here."""
    store, image = session.store, built.images[0]
    store.blobs.put(image.config_bytes)
    root = store.blobs.put(image.manifest.raw, media_type=image.manifest.media_type)
    root = root._replace(platform=image.config.platform)
    for name in exports.names:
        store.untag(name)
    _tell(step, f"image {image.id} is pushed only, since layers of it are not here: --load keeps it as well")
    stored = StoredImage((), root, image.manifest, image.config)
    pushes = tuple(Ready(push, stored, GZIP) for push in exports.pushes)
    return Exported(image.id, root, pushes, tuple(name.name for name in exports.names))


def _make_ready(push: Push, shipper: Shipper, built: Built, exports: Exports) -> Ready:
    """A plain image is compressed while it travels; all else is made before."""
    on_the_way = push.form == Form(GZIP) and exports.stored.form == Form() and not built.has_index
    names = exports.names if push.name in exports.names else (push.name,)
    form = Form() if on_the_way else push.form
    shipped = shipper.ship(form, names, artifact=push.artifact)
    image = shipped.images[0][1]
    stored = StoredImage((), shipped.root, image.manifest, image.config)
    return Ready(push, stored, GZIP if on_the_way else NONE)


def _tell(step: StepJournal, text: str) -> None:
    step.output(1, text.encode("utf-8", "surrogateescape") + b"\n")


def _write(session: Session, shipper: Shipper, built: Built, output: Output) -> None:
    if output.kind in {"local", "tar"}:
        from builder.rootexport import write_roots

        write_roots(session, built, output)
        return
    from builder.destination import destination
    from layers import archive

    shipped = shipper.ship(output.form, output.names, artifact=output.artifact)
    names = [name.name for name in output.names]
    listed: list[tuple[Descriptor, str | None]] = [(shipped.root, name) for name in names] or [(shipped.root, None)]
    if not output.archived:
        _write_layout(session.store, listed, output.destination)
        return
    with destination(output.destination) as out:
        if output.kind == "oci":
            archive.write_oci_archive(session.store, listed, out)
        else:
            descriptor, image = shipped.images[0]
            stored = StoredImage(tuple(names), descriptor, image.manifest, image.config)
            plain = output.form.compression == "none"
            archive.write_docker_archive(session.store, [(stored, names)], out, plain=plain)


def _write_layout(store: Store, images: Sequence[tuple[Descriptor, str | None]], directory: str) -> None:
    """The images, each with all that it refers to, are in the image layout ``directory``, made if need be."""
    from layers.archive import closure, named_entry
    from layers.layoutdir import LayoutDirectory

    layout = LayoutDirectory(directory, create=True)
    for root, name in images:
        for part in closure(store, root):
            if layout.blobs.size(part.digest) != part.size:
                with store.blobs.open(part.digest) as content:
                    layout.blobs.put(content, expected=part)
        layout.name(name or "", named_entry(root, name))
