"""Images as values: configuration, what each layer says, and the root that the layers make together.

Both builders' images are read from their tars by code that neither of them has. A Layer is what its tar says: entries,
whiteouts, opaque directories. The root is those put on each other as image-spec, layer.md has it. Times that lie after
``since`` read as NOW: they say when a build ran; older ones come from files that were copied and must agree.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

NOW = "now"
_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "fifo",
}
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_XATTR = "SCHILY.xattr."


class Entry(NamedTuple):
    """One file of a root; a name of it when it has several."""

    kind: str
    mode: str
    owner: tuple[int, int]
    size: int
    target: str
    device: tuple[int, int]
    mtime: float | str
    xattrs: tuple[tuple[str, str], ...]
    content: str
    same_file: str
    """The first name, in order, of the file; its own where there is one name."""


class Layer(NamedTuple):
    """What one tar says, by path; ``links`` are hard links and the names they lead to."""

    entries: dict[str, Entry]
    links: dict[str, str]
    whiteouts: frozenset[str]
    opaque: frozenset[str]


class Image(NamedTuple):
    """``layers`` from the bottom up."""

    config: dict[str, Any]
    layers: tuple[Layer, ...]
    identity: str


def _entry(member: tarfile.TarInfo, path: str, since: float, content: BinaryIO | None) -> Entry:
    xattrs = {key.removeprefix(_XATTR): text for key, text in member.pax_headers.items() if key.startswith(_XATTR)}
    kind = _KINDS[tarfile.REGTYPE if member.isreg() else member.type]
    return Entry(
        kind=kind,
        mode=oct(member.mode & 0o7777),
        owner=(member.uid, member.gid),
        size=member.size,
        target=member.linkname if member.issym() else "",
        device=(member.devmajor, member.devminor) if member.isdev() and kind != "fifo" else (0, 0),
        mtime=NOW if member.mtime >= since else int(member.mtime),
        xattrs=tuple(sorted(xattrs.items())),
        content=hashlib.file_digest(content, "sha256").hexdigest() if content is not None and member.size else "",
        same_file=path,
    )


def _clean(name: str) -> str:
    """``./a/b/`` is ``a/b``, the root is the empty name."""
    return "" if name in {".", "./", "/"} else name.removeprefix("./").strip("/")


def read_layer(stream: BinaryIO, since: float) -> Layer:
    """What the plain or gzipped tar says. A path that comes twice is an error: no builder should write that."""
    entries: dict[str, Entry] = {}
    links: dict[str, str] = {}
    whiteouts, opaque = set(), set()
    magic = stream.read(2)
    stream.seek(0)
    source: Any = gzip.GzipFile(fileobj=stream) if magic == b"\x1f\x8b" else stream
    with tarfile.open(fileobj=source, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            path = _clean(member.name)
            directory, slash, name = path.rpartition("/")
            if name == _OPAQUE:
                opaque.add(directory)
            elif name.startswith(_WHITEOUT):
                whiteouts.add(directory + slash + name.removeprefix(_WHITEOUT))
            elif path in entries or path in links:
                raise ValueError(f"{path!r} is twice in a layer")
            elif member.islnk():
                links[path] = _clean(member.linkname)
            else:
                entries[path] = _entry(member, path, since, tar.extractfile(member) if member.isreg() else None)
    return Layer(entries, links, frozenset(whiteouts), frozenset(opaque))


@functools.lru_cache(maxsize=8)
def _base_layer(path: str, diff_id: str, since: float) -> Layer:
    """A layer that many images share. ``diff_id`` is part of what it is remembered by."""
    with open(path, "rb") as stream:
        return read_layer(stream, since)


def read_layout(root: Path, name: str, since: float) -> Image:
    """An image of an OCI layout, by the name in its index."""
    index = json.loads((root / "index.json").read_bytes())
    known = {one.get("annotations", {}).get("org.opencontainers.image.ref.name"): one for one in index["manifests"]}
    manifest = json.loads(_blob(root, known[name]["digest"]).read_bytes())
    digest = manifest["config"]["digest"]
    config = json.loads(_blob(root, digest).read_bytes())
    layers = []
    for descriptor, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        path = _blob(root, descriptor["digest"])
        layers.append(_read(path, diff_id, since))
    return Image(config, tuple(layers), digest)


def _read(path: Path, diff_id: str, since: float) -> Layer:
    if path.stat().st_size > 1 << 20:
        return _base_layer(os.fspath(path), diff_id, since)
    with open(path, "rb") as stream:
        return read_layer(stream, since)


def _blob(root: Path, digest: str) -> Path:
    return root.joinpath("blobs", *digest.split(":"))


def read_docker_archive(archive: Path, since: float, known: dict[str, Layer]) -> Image:
    """The one image of what ``docker save`` wrote; big layers are looked up in and added to ``known``, by diff id."""
    with tarfile.open(archive) as saved:
        manifest = json.load(_member(saved, "manifest.json"))[0]
        raw = _member(saved, manifest["Config"]).read()
        config = json.loads(raw)
        layers = []
        for name, diff_id in zip(manifest["Layers"], config["rootfs"].get("diff_ids") or (), strict=True):
            layer = known.get(diff_id)
            if layer is None:
                stream = _member(saved, name)
                layer = read_layer(stream, since)
                if stream.seek(0, os.SEEK_END) > 1 << 20:
                    known[diff_id] = layer
            layers.append(layer)
    return Image(config, tuple(layers), "sha256:" + hashlib.sha256(raw).hexdigest())


def _member(archive: tarfile.TarFile, name: str) -> Any:
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(name)
    return member


class _File(NamedTuple):
    """A file under one of its names; ``number`` is the same for all of them."""

    entry: Entry
    number: int


class Root:
    """The tree that layers make."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._count = 0

    def apply(self, layer: Layer) -> None:
        """``layer`` lies on top."""
        for path in layer.whiteouts:
            self._remove(path)
        for path in layer.opaque:
            for below in [name for name in self._files if name.startswith(f"{path}/") or not path]:
                self._files.pop(below)
        for path, entry in layer.entries.items():
            there = self._files.get(path)
            if there is not None and not there.entry.kind == entry.kind == "directory":
                self._remove(path)
            self._count += 1
            self._files[path] = _File(entry, self._count)
        for path, target in layer.links.items():
            self._remove(path)
            self._files[path] = self._files[target]

    def _remove(self, path: str) -> None:
        found = self._files.pop(path, None)
        if found is not None and found.entry.kind == "directory":
            for below in [name for name in self._files if name.startswith(f"{path}/")]:
                del self._files[below]

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def kind(self, path: str) -> str | None:
        """Kind of what lies at ``path``, None for nothing."""
        found = self._files.get(path)
        return None if found is None else found.entry.kind

    def entry(self, path: str) -> Entry | None:
        """What lies at ``path``, None for nothing."""
        found = self._files.get(path)
        return None if found is None else found.entry

    def tree(self) -> dict[str, Entry]:
        """Every name and what it is."""
        first: dict[int, str] = {}
        return {
            path: file.entry._replace(same_file=first.setdefault(file.number, path))
            for path, file in sorted(self._files.items())
        }


def root_of(image: Image) -> dict[str, Entry]:
    """The tree of an image."""
    root = Root()
    for layer in image.layers:
        root.apply(layer)
    return root.tree()


def said(image: Image) -> tuple[frozenset[str], ...]:
    """For each layer what it says: ``+path`` and ``-path``, an opaque directory as ``=path``.

    A mark that hides nothing says nothing and is left out, and so does a directory without content that is, its time
    apart, as it was; an opaque directory is told as what it hides.
    """
    root = Root()
    told = []
    for layer in image.layers:
        paths = {f"+{path}" for path in (layer.entries | layer.links) if path}
        paths |= {f"-{path}" for path in layer.whiteouts if path in root}
        for directory in layer.opaque:
            paths |= {f"-{path}" for path in _children(root.tree(), directory) if f"+{path}" not in paths}
        told.append(frozenset(paths - _idle_directories(layer, root)))
        root.apply(layer)
    return tuple(told)


def _idle_directories(layer: Layer, root: Root) -> set[str]:
    """The marks of directories that the layer says nothing of."""
    named = {*layer.entries, *layer.links, *layer.whiteouts}
    content = Counter(path.rpartition("/")[0] for path in named)
    content.update(layer.opaque)
    found: set[str] = set()
    for path in sorted(layer.entries, reverse=True):
        before, entry = root.entry(path), layer.entries[path]
        if not path or before is None or entry.kind != "directory" or content[path]:
            continue
        if before._replace(mtime=0, same_file="") == entry._replace(mtime=0, same_file=""):
            found.add(f"+{path}")
            content[path.rpartition("/")[0]] -= 1
    return found


def _children(tree: dict[str, Entry], directory: str) -> list[str]:
    return [path for path in tree if path.rpartition("/")[0] == directory and path]


def needless_whiteouts(image: Image) -> list[str]:
    """Whiteouts that hide nothing, one line each."""
    root = Root()
    lines = []
    for number, layer in enumerate(image.layers):
        lines += [f"layer {number}: whiteout of {path}" for path in sorted(layer.whiteouts) if path not in root]
        root.apply(layer)
    return lines


def comparable(image: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration both builders must agree on; docker writes some empty values that others leave out."""
    config = {name: value for name, value in image["config"].items() if value}
    history = [
        (_readable(one.get("created_by", "")), one.get("comment", ""), one.get("empty_layer", False))
        for one in image.get("history", ())
    ]
    author = image.get("author", "")
    return {"config": config, "history": history, "os": image["os"], "arch": image["architecture"], "author": author}


def _readable(created_by: str) -> str:
    """A line of history without what BuildKit of 2021 wrote in Go's inner form."""
    if created_by.startswith("HEALTHCHECK"):
        return "HEALTHCHECK"
    if not created_by.startswith("EXPOSE map["):
        return created_by
    return created_by.replace("map[", "[").replace(":{}", "")
