"""What a store holds, by its files and its commands alone, read by code that pybuild does not have.

Invariants: nothing is changed; what does not hold fails the test with the name of the file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from harness.pybuild import Pybuild

REF_NAME = "org.opencontainers.image.ref.name"


class Referenced(NamedTuple):
    """What the index leads to: digests of blobs, chain ids of unpacked layers, ids of images."""

    blobs: frozenset[str]
    chains: frozenset[str]
    ids: frozenset[str]


def read_blob(root: Path, digest: str) -> bytes:
    """The content, which is what its digest says."""
    raw = (root / "blobs" / digest.replace(":", "/")).read_bytes()
    assert "sha256:" + hashlib.sha256(raw).hexdigest() == digest
    return raw


def names(root: Path) -> dict[str, str]:
    """The manifest's digest of each name in the index."""
    entries = json.loads((root / "index.json").read_bytes())["manifests"]
    return {entry["annotations"][REF_NAME]: entry["digest"] for entry in entries if "annotations" in entry}


def referenced(root: Path) -> Referenced:
    """All that the images of the index need, which is there and whole, and the compressed forms of their layers."""
    blobs: set[str] = set()
    chains: set[str] = set()
    ids: set[str] = set()
    pending = [entry["digest"] for entry in json.loads((root / "index.json").read_bytes())["manifests"]]
    while pending:
        digest = pending.pop()
        blobs.add(digest)
        manifest = json.loads(read_blob(root, digest))
        pending += [entry["digest"] for entry in manifest.get("manifests", ())]
        if "config" in manifest:
            ids.add(manifest["config"]["digest"])
            blobs.update(part["digest"] for part in (manifest["config"], *manifest["layers"]))
            chains.update(_chain_ids(json.loads(read_blob(root, manifest["config"]["digest"]))))
    forms = root / "compressed.json"
    for plain, made in json.loads(forms.read_bytes()).items() if forms.exists() else ():
        if plain in blobs:
            blobs.update(one["digest"] for one in made.values())
    for digest in blobs:
        read_blob(root, digest)
    return Referenced(frozenset(blobs), frozenset(chains), frozenset(ids))


def _chain_ids(config: Any) -> Iterator[str]:
    chain = ""
    for diff_id in config["rootfs"]["diff_ids"]:
        chain = "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest() if chain else diff_id
        yield chain


def assert_reported_is_there(pybuild: Pybuild, scratch: Path) -> dict[str, str]:
    """What ``images``, ``inspect`` and ``cache ls`` report is there, whole, and images come out of ``save`` as they are.

    Returns the digests of the images by name.
    """
    for row in map(json.loads, pybuild.run("cache ls", "--format", "json").stdout.splitlines()):
        if row["type"] == "regular":
            read_blob(pybuild.root, row["digest"])
    lines = pybuild.run("images", "--format", "json").stdout.splitlines()
    reported = {f"{row['repository']}:{row['tag']}": row for row in map(json.loads, lines)}
    if not reported:
        return {}
    told = json.loads(pybuild.run("inspect", *reported).stdout)
    promised: set[str] = set()
    for image in told:
        manifest = json.loads(read_blob(pybuild.root, image["Digest"]))
        assert manifest["config"]["digest"] == image["Id"]
        assert [layer["digest"] for layer in image["Layers"]] == [layer["digest"] for layer in manifest["layers"]]
        promised |= {image["Digest"], image["Id"], *(layer["digest"] for layer in image["Layers"])}
    for digest in promised:
        read_blob(pybuild.root, digest)
    archive = scratch / "reported.tar"
    pybuild.run("save", "--format", "oci", "-o", archive, *reported)
    assert promised <= _archived(archive)
    archive.unlink()
    return {name: row["digest"] for name, row in reported.items()}


def _archived(archive: Path) -> set[str]:
    """The digests of an OCI archive's blobs, each of which is what its name says."""
    found = set()
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.name.startswith("blobs/sha256/") else None
            if content is not None:
                name = member.name.rpartition("/")[2]
                assert hashlib.file_digest(content, "sha256").hexdigest() == name
                found.add(f"sha256:{name}")
    return found


def assert_nothing_else(root: Path) -> None:
    """A store that was pruned holds what its images need, and nothing of anybody who was killed."""
    needed = referenced(root)
    assert {f"sha256:{name}" for name in os.listdir(root / "blobs/sha256")} == needed.blobs
    layers = set(os.listdir(root / "layers")) - {"active"}
    assert {name if ":" in name else f"sha256:{name}" for name in layers} <= needed.chains
    for directory in ("tmp", "layers/active", "failed", "locks"):
        assert not (root / directory).exists() or os.listdir(root / directory) == [], directory
    assert set(os.listdir(root / "pins")) <= {"lock"} if (root / "pins").exists() else True
    builds = os.listdir(root / "builds") if (root / "builds").exists() else []
    assert {f"sha256:{name.removesuffix('.json')}" for name in builds} <= needed.ids
    assert not {name for name in os.listdir(root) if name.endswith(("-wal", "-shm", "-journal"))}
    assert_nobody_holds(root)


def assert_nobody_holds(root: Path) -> None:
    """No lock below ``root`` is held, and nothing is mounted there."""
    for directory, _, files in os.walk(root):
        if os.path.relpath(directory, root).split("/")[0] in {"blobs", "layers", "mounts"}:
            continue
        for name in files:
            with open(os.path.join(directory, name), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    assert not [line for line in mounts if line.split(" ")[4].startswith(f"{root}/")]
