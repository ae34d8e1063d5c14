"""``--verify-reproducible``: the same build twice, without the cache, and what differs between the results.

::

    build ──▶ image ──┐
                      ├── compare ──▶ nothing: the build goes on, from what is now in the cache
    build ──▶ image ──┘               something: which file of which layer, in which attribute; nothing is given out

The second build is disturbed as far as the result must not depend on it: steps run one at a time, in sandboxes with
another host name, later. Invariants: nothing is named, written or pushed before the results are found equal; the two
builds see the same bases and contexts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from builder.api import build_or_reuse
from builder.assemble import format_time
from builder.dockerfile.source import Finding, Source
from builder.errors import BuildError
from builder.events import Emit, Event, Notice
from builder.finished import BuildResult
from builder.options import BuildOptions
from layers import gojson
from layers.config import ImageConfig
from layers.descriptor import Descriptor
from layers.image import Image
from layers.layer import Layer
from layers.manifest import Index
from layers.pieces import Pieces
from layers.store import Store
from layers.tar.entry import Entry
from layers.tar.reader import TarReader
from unionfs.namedtuple import NamedTuple

_OTHER_HOSTNAME = "other"
_MOST_TOLD = 20
_LONGEST_TITLE = 60
_ATTRIBUTES = ("type", "mode", "uid", "gid", "size", "linkname", "major", "minor")


class NotReproducibleError(BuildError):
    """Two builds of the same gave different results; ``findings`` has a line for each."""

    def __init__(self, message: str, findings: Sequence[str], hints: tuple[str, ...] = ()) -> None:
        super().__init__(message, hints=hints)
        self.findings = tuple(findings)


def build_reproducibly(
    options: BuildOptions,
    *,
    root: str,
    emit: Emit,
    sources: dict[str, Source],
    tick: Callable[[], None] = lambda: None,
) -> BuildResult:
    """As `builder.api.build_or_reuse`, when two builds before it without the cache gave the same.

    Raises:
        NotReproducibleError: they did not; the image was given no name and went nowhere.
        BuildError: the build failed.
    """
    numbers = _Numbers(emit)
    trial = options._replace(
        tags=(),
        outputs=({"type": "cacheonly"},),
        push=False,
        cache_to=(),
        attestations=(),
        annotations=(),
        no_cache=True,
    )
    other = trial._replace(hostname=_OTHER_HOSTNAME, jobs=1)
    results = [
        build_or_reuse(one, root=root, emit=numbers.next(), sources=sources, tick=tick) for one in (trial, other)
    ]
    with Store(root) as store:
        differences = [line for line, _ in zip(compare(store, *results), range(_MOST_TOLD + 1), strict=False)]
    if differences:
        dated = options.source_date_epoch is not None
        hint = () if dated else ("SOURCE_DATE_EPOCH gives files and image the same times in each build",)
        more = differences[_MOST_TOLD:]
        told = [*differences[:_MOST_TOLD], *(["and more"] if more else [])]
        raise NotReproducibleError("the result is not reproducible: two builds of the same differ", told, hint)
    return build_or_reuse(
        options._replace(no_cache=False, no_cache_stages=()), root=root, emit=numbers.next(), sources=sources, tick=tick
    )


class _Numbers:
    """Numbers the steps of several builds as those of one."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._last = 0

    def next(self) -> Emit:
        """Where the events of the next build go."""
        before = self._last

        def emit(event: Event) -> None:
            if not isinstance(event, Notice | Finding):
                event = event._replace(number=event.number + before)
                self._last = max(self._last, event.number)
            self._emit(event)

        return emit


def compare(store: Store, one: BuildResult, other: BuildResult) -> Iterator[str]:
    """A line for each thing in which the images of two results differ."""
    if one.exported.root.digest == other.exported.root.digest:
        return
    for first, second in zip(_images(store, one.exported.root), _images(store, other.exported.root), strict=True):
        yield from compare_images(store, first, second)


def _images(store: Store, root: Descriptor) -> list[Image]:
    found = store.read_manifest(root)
    manifests = [found] if not isinstance(found, Index) else [store.read_manifest(entry) for entry in found.images]
    images: list[Image] = []
    for manifest in manifests:
        if not isinstance(manifest, Index):
            raw = store.blobs.read(manifest.config.digest)
            images.append(Image(manifest, ImageConfig.from_bytes(raw), raw))
    return images


def compare_images(store: Store, one: Image, other: Image) -> Iterator[str]:
    """A line for each file, attribute and field of the configuration in which two images of one build differ."""
    made_by = [entry.created_by for entry in one.config.history if not entry.empty_layer]
    layers = zip(one.layers(store.blobs), other.layers(store.blobs), strict=False)
    for number, (first, second) in enumerate(layers):
        if first.diff_id != second.diff_id:
            title = _shorten(made_by[number]) if number < len(made_by) else f"layer {number + 1}"
            for line in compare_layers(first, second):
                yield f"{title}: {line}"
    if len(one.manifest.layers) != len(other.manifest.layers):
        yield f"the first image has {len(one.manifest.layers)} layers, the second {len(other.manifest.layers)}"
    yield from _compare_configurations(one, other)


def _shorten(created_by: str) -> str:
    """What made a layer, as the Dockerfile has it, in one short line."""
    text = " ".join(created_by.removesuffix(" # buildkit").replace("/bin/sh -c ", "", 1).split())
    return text if len(text) <= _LONGEST_TITLE else f"{text[: _LONGEST_TITLE - 1]}…"


def _compare_configurations(one: Image, other: Image) -> Iterator[str]:
    first = gojson.loads_object(one.config_bytes, "config")
    second = gojson.loads_object(other.config_bytes, "config")
    for key in sorted({*first, *second} - {"rootfs"}):
        if first.get(key) != second.get(key):
            shown = f": {first.get(key)}, then {second.get(key)}" if isinstance(first.get(key), str) else ""
            yield f"image configuration: {key} differs{shown}"


class _Found(NamedTuple):
    """A member of a layer, with the digest of its content."""

    entry: Entry
    content: str


def compare_layers(one: Layer, other: Layer) -> Iterator[str]:
    """A line for each file in which two layers differ: the attributes, and where the content begins to."""
    first, second = _members(one), _members(other)
    for name in sorted({*first, *second}):
        shown = "/" + name.decode("utf-8", "backslashreplace")
        a, b = first.get(name), second.get(name)
        if a is None or b is None:
            yield f"{shown}: only in the {'second' if a is None else 'first'} build"
            continue
        differing = list(_compare_entries(a, b))
        if a.content != b.content and a.entry.type == b.entry.type:
            differing.append(f"content differs from byte {_first_difference(one, other, name)} on")
        if differing:
            yield f"{shown}: {', '.join(differing)}"
    if [*first] != [*second] and {*first} == {*second}:
        yield "the order of the entries differs"


def _compare_entries(one: _Found, other: _Found) -> Iterator[str]:
    for attribute in _ATTRIBUTES:
        a, b = getattr(one.entry, attribute), getattr(other.entry, attribute)
        if a != b:
            yield f"{attribute} {_show(attribute, a)}, then {_show(attribute, b)}"
    if one.entry.mtime_ns != other.entry.mtime_ns:
        yield f"mtime {format_time(one.entry.mtime_ns)}, then {format_time(other.entry.mtime_ns)}"
    for key in sorted({*one.entry.xattrs, *other.entry.xattrs}):
        if one.entry.xattrs.get(key) != other.entry.xattrs.get(key):
            yield f"attribute {key.decode('utf-8', 'backslashreplace')}"


def _show(attribute: str, value: Any) -> str:
    if attribute == "mode":
        return f"{value:04o}"
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _members(layer: Layer) -> dict[bytes, _Found]:
    found: dict[bytes, _Found] = {}
    reader = TarReader(Pieces(layer.uncompressed()))
    for entry in reader:
        content = hashlib.sha256()
        for offset, data in reader.chunks():
            content.update(b"%d:" % offset)
            content.update(data)
        found[entry.name] = _Found(entry, content.hexdigest())
    return found


def _first_difference(one: Layer, other: Layer, name: bytes) -> int:
    """Where the contents of a file begin to differ."""
    position = 0
    left, right = _content(one, name), _content(other, name)
    a, b = b"", b""
    while True:
        a, b = a or next(left, b""), b or next(right, b"")
        shared = min(len(a), len(b))
        if not shared:
            return position
        if a[:shared] != b[:shared]:
            return position + next(at for at in range(shared) if a[at] != b[at])
        position += shared
        a, b = a[shared:], b[shared:]


def _content(layer: Layer, name: bytes) -> Iterator[bytes]:
    reader = TarReader(Pieces(layer.uncompressed()))
    for entry in reader:
        if entry.name == name:
            yield from (data for _, data in reader.chunks() if data)
            return
