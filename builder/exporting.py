"""Where the finished image goes: names in the store, archives, directories, registries; in which form each.

On the cached-build path. Invariants: pure; options are checked before anything is built. Source: the exporters of
``docker buildx build --output`` and their fields.
"""

from __future__ import annotations

from collections.abc import Mapping

from builder.errors import UsageError
from builder.options import Annotation, Attestation, BuildOptions
from builder.switches import read_switch
from layers.errors import FormatError
from layers.forms import ESTARGZ, GZIP, HIGHEST_LEVELS, NONE, ZSTD, Form
from layers.reference import Reference
from unionfs.namedtuple import NamedTuple

_COMPRESSIONS = {"uncompressed": NONE, "none": NONE, "gzip": GZIP, "zstd": ZSTD, "estargz": ESTARGZ}


class Output(NamedTuple):
    """One ``-o`` that writes files; the destination ``-`` is stdout.

    ``kind`` is oci, docker, tar or local. ``names`` are those in an archive. Without ``archived`` an image is a layout
    in a directory. ``split``: each platform has a directory of its own. ``prefix`` begins the names of files with
    attestations. ``artifact`` is the way in which attestations are attached.
    """

    kind: str
    destination: str
    form: Form = Form()
    names: tuple[Reference, ...] = ()
    archived: bool = True
    split: bool = False
    prefix: str = ""
    artifact: bool = True


class Push(NamedTuple):
    """A name that is to be sent to its registry; ``by_digest``: the registry is given no tag."""

    name: Reference
    form: Form = Form(GZIP)
    artifact: bool = True
    by_digest: bool = False
    insecure: bool = False


class Stored(NamedTuple):
    """How the store keeps the image. ``prefix``: it is also called PREFIX@DIGEST, ``canonical``: and NAME@DIGEST.

    Without ``listed`` no name and no list has it; ``unpacked``: its layers are directories too.
    """

    form: Form = Form()
    artifact: bool = True
    prefix: str = ""
    canonical: bool = False
    listed: bool = True
    unpacked: bool = False


class Exports(NamedTuple):
    """What becomes of the image. ``pushes`` are the names to be sent to their registries."""

    names: tuple[Reference, ...]
    outputs: tuple[Output, ...]
    pushes: tuple[Push, ...]
    stored: Stored = Stored()
    attestations: tuple[Attestation, ...] = ()
    annotations: tuple[Annotation, ...] = ()

    @property
    def need_root(self) -> bool:
        """Whether files of the image are looked at."""
        scanned = any(one.kind == "sbom" for one in self.attestations)
        return scanned or self.stored.unpacked or any(output.kind in {"local", "tar"} for output in self.outputs)

    @property
    def are_on_the_way(self) -> bool:
        """Whether the image is pushed and nothing else, and its layers may be compressed while they travel."""
        return (
            bool(self.pushes)
            and not self.outputs
            and not self.attestations
            and self.stored == Stored()
            and all(push.form == Form(GZIP) for push in self.pushes)
        )

    @property
    def leaving(self) -> Form | None:
        """The first form in which layers leave compressed; None when none do, or not as what a compressor makes."""
        images = (output.form for output in self.outputs if output.kind in {"oci", "docker"})
        forms = (self.stored.form, *images, *(push.form for push in self.pushes))
        return next((form for form in forms if form.compression in {GZIP, ZSTD}), None)

    @property
    def need_network(self) -> bool:
        """Whether a registry takes part."""
        return bool(self.pushes)


def plan_exports(options: BuildOptions) -> Exports:
    """What ``options`` ask for.

    Raises:
        UsageError: a name is none, has a digest, or is missing where one is needed; a field makes no sense.
    """
    names = [_parse_name(name) for name in options.tags]
    images = [fields for fields in options.outputs if fields["type"] in {"image", "registry"}]
    several = len(dict.fromkeys(options.platforms)) > 1
    for fields in images:
        if not _flag(fields, "push-by-digest"):
            names += [_parse_name(name) for name in _listed(fields)]
    unique = tuple(dict.fromkeys(names))
    outputs = [_plan_output(fields, unique, several=several) for fields in options.outputs if _is_file(fields)]
    pushes = [push for fields in images for push in _plan_pushes(fields, unique)]
    if options.push:
        pushes += [Push(name) for name in unique]
        if not unique:
            raise UsageError("nothing to push: the image has no name", hints=("-t NAME gives it one",))
    stored = _plan_stored(images, only_cached=any(fields["type"] == "cacheonly" for fields in options.outputs))
    exports = Exports(
        unique, tuple(outputs), tuple(dict.fromkeys(pushes)), stored, options.attestations, options.annotations
    )
    _check(exports, options, several=several)
    return exports


def _is_file(fields: Mapping[str, str]) -> bool:
    return fields["type"] in {"oci", "docker", "local", "tar"}


def _plan_output(fields: Mapping[str, str], names: tuple[Reference, ...], *, several: bool) -> Output:
    kind = fields["type"]
    if kind in {"local", "tar"}:
        split = _flag(fields, "platform-split", default=several)
        prefix = fields.get("attestation-prefix", "")
        if "/" in prefix:
            raise UsageError(f"-o type={kind}: attestation-prefix {prefix!r} has a slash, it is part of a file's name")
        return Output(kind, fields["dest"], split=split, prefix=prefix)
    own = tuple(_parse_name(name) for name in _listed(fields))
    archived = _flag(fields, "tar", default=True)
    if not archived and fields["dest"] == "-":
        raise UsageError(f"-o type={kind},tar=false: a directory cannot be stdout")
    usual = GZIP if kind == "oci" else NONE
    form = _form(fields, usual)
    return Output(kind, fields["dest"], form, own or names, archived, artifact=_artifact(fields))


def _plan_pushes(fields: Mapping[str, str], names: tuple[Reference, ...]) -> list[Push]:
    if fields["type"] != "registry" and not _flag(fields, "push"):
        return []
    by_digest = _flag(fields, "push-by-digest")
    wanted = [_parse_name(name) for name in _listed(fields)] or list(names)
    if not wanted:
        raise UsageError("nothing to push: the image has no name", hints=("-t NAME gives it one",))
    push = Push(wanted[0], _form(fields, GZIP), _artifact(fields), by_digest, _flag(fields, "registry.insecure"))
    return [push._replace(name=name._replace(tag=None) if by_digest else name) for name in wanted]


def _plan_stored(images: list[Mapping[str, str]], *, only_cached: bool) -> Stored:
    """As the last output of type image says; one of type registry says it of what is pushed."""
    stored = Stored(listed=not only_cached or bool(images))
    for fields in images:
        stored = stored._replace(
            prefix=fields.get("dangling-name-prefix", stored.prefix),
            canonical=_flag(fields, "name-canonical", default=stored.canonical),
            listed=_flag(fields, "store", default=stored.listed),
            unpacked=_flag(fields, "unpack", default=stored.unpacked),
        )
        if fields["type"] == "image":
            stored = stored._replace(form=_form(fields, NONE), artifact=_artifact(fields))
    return stored


def _form(fields: Mapping[str, str], usual: str) -> Form:
    """The form that the fields ask for. Raises UsageError."""
    wanted = fields.get("compression", "")
    if wanted and wanted not in _COMPRESSIONS:
        known = "uncompressed, gzip, estargz, zstd"
        raise UsageError(f"-o type={fields['type']}: unknown compression {wanted!r}, known are {known}")
    compression = _COMPRESSIONS.get(wanted, usual)
    docker = not _flag(fields, "oci-mediatypes", default=True)
    if docker and compression == ESTARGZ:
        raise UsageError(f"-o type={fields['type']}: estargz is described in OCI media types alone")
    return Form(compression, _level(fields, compression), _flag(fields, "force-compression"), docker)


def _level(fields: Mapping[str, str], compression: str) -> int | None:
    text = fields.get("compression-level", "")
    if not text:
        return None
    most = HIGHEST_LEVELS.get(compression)
    if not (text.isascii() and text.isdecimal()) or most is None or int(text) > most:
        expected = "none, since nothing is compressed" if most is None else f"a number from 0 to {most}"
        raise UsageError(f"-o type={fields['type']}: compression-level is {text!r}, expected {expected}")
    return int(text)


def _artifact(fields: Mapping[str, str]) -> bool:
    return _flag(fields, "oci-artifact", default=True)


def _flag(fields: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    text = fields.get(name)
    if text is None:
        return default
    found = read_switch(text)
    if found is None:
        raise UsageError(f"-o type={fields['type']}: {name} is true or false, got {text!r}")
    return found


def _listed(fields: Mapping[str, str]) -> list[str]:
    return [name for name in fields.get("name", "").split(",") if name]


def _parse_name(text: str) -> Reference:
    try:
        reference = Reference.parse(text)
    except FormatError as error:
        raise UsageError(str(error)) from error
    if reference.digest is not None:
        raise UsageError(f"name {text!r} has a digest, a result cannot be named by one")
    return reference


def _check(exports: Exports, options: BuildOptions, *, several: bool) -> None:
    """What is asked for fits together."""
    forms = [exports.stored.form, *(one.form for one in exports.outputs), *(one.form for one in exports.pushes)]
    if any(form.docker for form in forms):
        if exports.attestations:
            raise UsageError(
                "attestations are described in OCI media types alone: they do not go with oci-mediatypes=false"
            )
        if any(one.level != "manifest" for one in options.annotations):
            raise UsageError("annotations of an index or a descriptor do not go with oci-mediatypes=false")
    if several and any(output.kind == "docker" for output in exports.outputs):
        raise UsageError(
            "-o type=docker: docker's archive holds one platform", hints=("-o type=oci holds all of them",)
        )
    if not several and not exports.attestations:
        for one in options.annotations:
            if one.level.startswith("index"):
                raise UsageError(
                    f"--annotation {one.level}:{one.key}: the image has no index",
                    hints=("several platforms have one, and so has an image with attestations",),
                )
