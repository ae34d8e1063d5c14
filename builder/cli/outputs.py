"""Values that say what becomes of a result: ``-o``, ``--annotation``, ``--attest`` and its short forms, ``--platform``.

Invariants: what makes no sense is an ArgumentTypeError that says what is expected and what was got; what is right by
itself is compared with the rest by `builder.exporting`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from builder.options import Annotation, Attestation
from builder.switches import read_switch

_FORM_FIELDS = ("compression", "compression-level", "force-compression", "oci-mediatypes", "oci-artifact")
_IMAGE_FIELDS = ("name", "push", "push-by-digest", "registry.insecure", "dangling-name-prefix", "name-canonical")
_COMMON = ("type", "rewrite-timestamp")
FIELDS: Mapping[str, tuple[str, ...]] = {
    "image": (*_COMMON, *_IMAGE_FIELDS, "unpack", "store", *_FORM_FIELDS),
    "registry": (*_COMMON, *_IMAGE_FIELDS, "unpack", "store", *_FORM_FIELDS),
    "oci": (*_COMMON, "dest", "name", "tar", *_FORM_FIELDS),
    "docker": (*_COMMON, "dest", "name", "tar", *_FORM_FIELDS),
    "local": ("type", "dest", "platform-split", "attestation-prefix"),
    "tar": ("type", "dest", "platform-split", "attestation-prefix"),
    "cacheonly": ("type",),
}
"""The fields of each type of output."""
OUTPUT_TYPES = tuple(FIELDS)
_STDOUT = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
_FILE_TYPES = ("oci", "docker", "local", "tar")
_LEVEL = r"([a-z-]+)(?:\[([A-Za-z0-9_/-]+)\])?"
_LEVELS = ("manifest", "index", "manifest-descriptor", "index-descriptor")
_ALIASES = {"descriptor": "manifest-descriptor"}
_SETTINGS = {
    "provenance": frozenset({"mode", "version", "builder-id", "reproducible", "inline-only", "filename"}),
    "sbom": frozenset({"generator"}),
}
_OWN_GENERATOR = "pybuild"


def split_fields(text: str) -> list[str]:
    """The parts between commas; quotes keep commas in a part: ``type=image,"name=a,b"``."""
    if '"' not in text:
        return text.split(",")
    import csv

    return next(csv.reader([text]))


def parse_output(text: str) -> dict[str, str]:
    """The fields of ``-o type=oci,dest=img.tar``; ``type=docker`` without a destination means the store.

    A path alone is a directory for the files of the result, ``-`` their tar on stdout.

    Source: ``docker buildx build --output``.

    Raises:
        argparse.ArgumentTypeError: the type is unknown, a field is unknown, or the destination is missing.
    """
    if "=" not in text:
        return {"type": "tar", "dest": "-"} if text in _STDOUT else {"type": "local", "dest": text}
    fields = _read_output(text)
    kind = fields["type"]
    if kind == "docker" and "dest" not in fields:
        # docker's way to say that the image goes where images live
        fields = {**fields, "type": "image"}
    elif kind in {"tar", "oci"} and "dest" not in fields:
        fields = {**fields, "dest": "-"}
    elif kind == "local" and fields.get("dest") == "-":
        raise argparse.ArgumentTypeError("output type local is a directory, not stdout; type=tar can go there")
    elif kind in _FILE_TYPES and not fields.get("dest"):
        raise argparse.ArgumentTypeError(f"output type {kind} needs dest=PATH")
    return fields


def _read_output(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in split_fields(text):
        name, separator, value = part.partition("=")
        name = name.strip().lower()
        if not separator or not any(name in known for known in FIELDS.values()):
            known = ", ".join(sorted({name for names in FIELDS.values() for name in names}))
            raise argparse.ArgumentTypeError(f"unknown field {part!r} of an output, known are {known}")
        fields[name] = "-" if name == "dest" and value in _STDOUT else value
    kind = fields.get("type", "")
    if kind not in FIELDS:
        raise argparse.ArgumentTypeError(f"unknown output type {kind!r}, known are {', '.join(OUTPUT_TYPES)}")
    for name in fields:
        if name not in FIELDS[kind]:
            known = ", ".join(FIELDS[kind][1:]) or "none"
            raise argparse.ArgumentTypeError(f"output type {kind} has no field {name!r}, it has {known}")
    return fields


def parse_annotation(text: str) -> tuple[Annotation, ...]:
    """``[LEVEL[,LEVEL]:]KEY=VALUE``, where a LEVEL may name a platform: ``manifest[linux/arm64]``.

    Source: ``docker buildx build --annotation``.

    Raises:
        argparse.ArgumentTypeError: there is no value, or the level is unknown.
    """
    key, separator, value = text.partition("=")
    levels, colon, name = key.partition(":")
    if not separator or not (name if colon else key):
        raise argparse.ArgumentTypeError(f"expected [LEVEL:]KEY=VALUE, got {text!r}")
    if not colon:
        return (Annotation("manifest", key, value),)
    return tuple(_read_annotation(level, name, value) for level in levels.split(","))


def _read_annotation(level: str, key: str, value: str) -> Annotation:
    from layers.errors import FormatError
    from layers.platform import parse

    match = re.fullmatch(_LEVEL, level)
    kind = "" if match is None else _ALIASES.get(match.group(1), match.group(1))
    if match is None or kind not in _LEVELS:
        raise argparse.ArgumentTypeError(f"unknown level {level!r} of an annotation, known are {', '.join(_LEVELS)}")
    platform = match.group(2)
    if platform is not None:
        try:
            parse(platform)
        except FormatError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return Annotation(kind, key, value, platform)


def parse_attestation(text: str) -> tuple[str, Attestation | None]:
    """The kind, and what is asked for: ``type=provenance,mode=max``; None with ``disabled=true``.

    Source: ``docker buildx build --attest``.

    Raises:
        argparse.ArgumentTypeError: the type or a field is unknown or makes no sense.
    """
    fields = dict(_read_field(part) for part in split_fields(text))
    kind = fields.pop("type", None)
    if kind not in _SETTINGS:
        raise argparse.ArgumentTypeError(f"unknown attestation {kind!r}, known are {', '.join(_SETTINGS)}")
    disabled = _read_flag("disabled", fields.pop("disabled", "false"))
    for name in fields:
        if name not in _SETTINGS[kind]:
            known = ", ".join(sorted(_SETTINGS[kind]))
            raise argparse.ArgumentTypeError(f"unknown field {name!r} of {kind}, known are {known}")
    _check_settings(kind, fields)
    return kind, None if disabled else Attestation(kind, fields)


def parse_provenance(text: str) -> tuple[str, Attestation | None]:
    """``true``, ``false``, or the fields of a provenance. Raises as `parse_attestation`."""
    return parse_attestation(_canonical("provenance", text))


def parse_sbom(text: str) -> tuple[str, Attestation | None]:
    """``true``, ``false``, or the fields of an SBOM. Raises as `parse_attestation`."""
    return parse_attestation(_canonical("sbom", text))


def _canonical(kind: str, text: str) -> str:
    wanted = read_switch(text)
    if wanted is not None:
        return f"type={kind},disabled={str(not wanted).lower()}"
    return f"type={kind},{text}"


def _read_field(part: str) -> tuple[str, str]:
    name, separator, value = part.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected true, false or NAME=VALUE, got {part!r}")
    return name.strip().lower(), value


def _read_flag(name: str, text: str) -> bool:
    found = read_switch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{name} is true or false, got {text!r}")
    return found


def _check_settings(kind: str, fields: dict[str, str]) -> None:
    if fields.get("mode", "min") not in {"min", "max"}:
        raise argparse.ArgumentTypeError(f"unknown mode {fields['mode']!r} of provenance, known are min, max")
    if fields.get("version", "v1") != "v1":
        raise argparse.ArgumentTypeError(f"provenance is written as SLSA v1, got version {fields['version']!r}")
    for name in ("reproducible", "inline-only"):
        if name in fields:
            _read_flag(name, fields[name])
    if kind == "sbom" and fields.get("generator", _OWN_GENERATOR) != _OWN_GENERATOR:
        raise argparse.ArgumentTypeError(
            f"generator {fields['generator']!r}: images are scanned by pybuild itself, not by a program in an image"
        )


def list_attestations(given: list[tuple[str, Attestation | None]]) -> tuple[Attestation, ...]:
    """The attestations that were asked for and not turned off; of one kind the last word counts."""
    return tuple(one for one in dict(given).values() if one is not None)


def parse_platforms(text: str) -> tuple[str, ...]:
    """``linux/amd64,linux/arm64``: at least one; ``local`` is this machine's. Raises argparse.ArgumentTypeError."""
    from layers.errors import FormatError
    from layers.platform import host, parse

    try:
        return tuple(str(host() if part.strip() == "local" else parse(part.strip())) for part in text.split(","))
    except FormatError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def complete_short_forms(words: Sequence[str]) -> list[str]:
    """``words`` where ``--provenance`` and ``--sbom`` without a value have the value ``true``.

    What follows is a value when it reads like one; the context of a build does not.
    """
    completed: list[str] = []
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        alone = word in _SHORT_FORMS and not _is_setting(_SHORT_FORMS[word], following)
        completed.append(f"{word}=true" if alone else word)
    return completed


_SHORT_FORMS = {"--provenance": "provenance", "--sbom": "sbom"}


def _is_setting(kind: str, word: str) -> bool:
    name = word.partition("=")[0]
    return read_switch(word) is not None or ("=" in word and name in _SETTINGS[kind] | {"disabled"})
