"""eStargz layers, read and verified by the library of stargz-snapshotter, and compared with the tars they hold.

    python tests/conformance/estargz_reader.py LAYOUT...

Needs go and the library (Debian: golang-go, golang-github-containerd-stargz-snapshotter-dev). LAYOUT is an image layout
whose layers are eStargz (``pybuild build -o type=oci,tar=false,compression=estargz,force-compression=true,dest=LAYOUT``).
What differs is on stdout, one line each; the last line counts. Status 0 when nothing does and there was something.
"""

from __future__ import annotations

import base64
import datetime as dt
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from image_spec import Files, documents

SOURCE = Path(__file__).with_suffix(".go")
TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
KINDS = {
    tarfile.REGTYPE: "reg", tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "symlink", tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block", tarfile.FIFOTYPE: "fifo",
}  # fmt: skip
OWN = {"stargz.index.json"}
"""What is in the tar and not in the table: the table itself."""


def build(directory: Path) -> Path:
    """The program, made of Debian's sources."""
    program = directory / "reader"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(directory / "go")}
    subprocess.run(["go", "build", "-o", program, SOURCE], env=environment, check=True)
    return program


def layers(layout: Path) -> Iterator[tuple[Path, str]]:
    """The blob of each eStargz layer and the digest of its table."""
    for _, kind, content in documents(Files(layout)):
        for layer in content.get("layers", []) if kind == "image-manifest-schema.json" else ():
            if TOC_DIGEST in layer.get("annotations", {}):
                yield layout / "blobs" / layer["digest"].replace(":", "/"), layer["annotations"][TOC_DIGEST]


def expected(blob: Path) -> dict[str, dict[str, Any]]:
    """What the tar says, in the reader's words, by path."""
    found: dict[str, dict[str, Any]] = {}
    with gzip.open(blob) as plain, tarfile.open(fileobj=plain, encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            path = "/" + member.name.removeprefix("./").strip("/") if member.name.strip("./") else ""
            if member.name in OWN:
                continue
            if member.islnk():
                found[path] = found["/" + member.linkname.removeprefix("./")]
                continue
            content = tar.extractfile(member) if member.isreg() and member.size else None
            xattrs = {
                name.removeprefix("SCHILY.xattr."): os.fsencode(text)
                for name, text in member.pax_headers.items()
                if name.startswith("SCHILY.xattr.")
            }
            found[path] = {
                "type": KINDS[member.type], "mode": member.mode & 0o7777, "uid": member.uid, "gid": member.gid,
                "link": member.linkname if member.issym() else "", "major": member.devmajor, "minor": member.devminor,
                "time": dt.datetime.fromtimestamp(int(member.mtime), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "content": hashlib.file_digest(content, "sha256").hexdigest() if content else "",  # type: ignore[arg-type]
                "xattrs": {name: base64.b64encode(value).decode() for name, value in xattrs.items()} or None,
            }  # fmt: skip
    return found


def differences(program: Path, blob: Path, toc_digest: str) -> Iterator[str]:
    """One line each."""
    done = subprocess.run([program, blob, toc_digest], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        yield f"not read: {done.stderr.strip()}"
        return
    seen = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    # a table is JSON, which has no bytes: Go writes U+FFFD for each that is no UTF-8
    wanted = {
        path.encode(errors="surrogateescape").decode(errors="replace"): one for path, one in expected(blob).items()
    }
    for path in sorted(seen.keys() | wanted.keys()):
        if path not in wanted and path == "":
            continue  # the reader makes itself a root when there is none
        if path not in seen or path not in wanted:
            yield f"{path!r}: only in the {'table' if path in seen else 'tar'}"
            continue
        for field, value in wanted[path].items():
            if seen[path][field] != value:
                yield f"{path!r}: {field} is {seen[path][field]!r} in the table, {value!r} in the tar"


def main() -> int:
    """Reads all; prints what differs."""
    if len(sys.argv) < 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    count = failures = 0
    with tempfile.TemporaryDirectory() as directory:
        program = build(Path(directory))
        for layout in map(Path, sys.argv[1:]):
            for blob, toc_digest in layers(layout):
                count += 1
                for line in differences(program, blob, toc_digest):
                    failures += 1
                    sys.stdout.write(f"{layout}: {blob.name}: {line}\n")
    sys.stdout.write(f"{count} layers, {failures} differences\n")
    return int(failures > 0 or count == 0)


if __name__ == "__main__":
    sys.exit(main())
