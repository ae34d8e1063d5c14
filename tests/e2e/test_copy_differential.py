"""COPY, ADD and WORKDIR give the tree that ``docker build`` gives: one context, one Dockerfile a subject."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from harness.dockerd import Dockerd
from harness.pybuild import Pybuild
from harness.trees import differences, read_tree

SUBJECTS = {
    "destinations": """
        FROM scratch
        COPY a.txt /one
        COPY a.txt /two/
        COPY d /three
        COPY d e /four/
        COPY d/ /five/six/seven
        COPY a.txt b.md /several
        WORKDIR /eight/nine
        COPY a.txt .
        COPY a.txt sub/
    """,
    "wildcards and links": """
        FROM scratch
        COPY *.md /one/
        COPY link.txt /two/
        COPY ldir /three
        COPY li* /four/
        COPY none* /five/
        COPY docs/* e /six/
    """,
    "owners and modes": """
        FROM scratch
        COPY --chown=5:6 --chmod=600 a.txt /one
        COPY --chown=55 a.txt /two/three/
        COPY --chown=7:8 d /four
        USER 7:8
        WORKDIR /w/x
        USER 9
        WORKDIR y
        COPY a.txt z
    """,
    "what is there": """
        FROM scratch
        COPY d /dest
        COPY e /dest
        COPY --chmod=777 --chown=4 d/other /dest/sub
        COPY b.md /dest/x
    """,
    "from another stage": """
        FROM scratch AS one
        COPY --chown=3:4 d /src
        COPY --chown=5:6 a.txt /src/sub/
        FROM scratch
        COPY --from=one /src /dest
        COPY --from=one /src/x /src/l /files/
        COPY --from=one / /all
    """,
    "archives": """
        FROM scratch
        ADD archive.tgz /one
        ADD archive.tgz /two/
        ADD a.txt /three/
        ADD d /four
        COPY archive.tgz /five/
    """,
}
REFUSED = {
    "a missing source": "COPY missing /x",
    "a link that leads out of the context": "COPY d/abs /x",
    "a directory over a file": "COPY a.txt /x\nCOPY d /x",
    "a file over a directory": "COPY d /x/a.txt\nCOPY a.txt /x/",
    "a file as a directory": "COPY a.txt /x\nCOPY b.md /x/",
}


def _archive() -> bytes:
    out = io.BytesIO()
    members = [
        ("./", tarfile.DIRTYPE, "", b""),
        ("p", tarfile.DIRTYPE, "", b""),
        ("p/f", tarfile.REGTYPE, "", b"F"),
        ("p/l", tarfile.SYMTYPE, "f", b""),
        ("p/h", tarfile.LNKTYPE, "p/f", b""),
        ("q/deep/g", tarfile.REGTYPE, "", b"G"),
        ("s", tarfile.SYMTYPE, "/q", b""),
        ("s/through", tarfile.REGTYPE, "", b"T"),
        ("p/f", tarfile.REGTYPE, "", b"again"),
    ]
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, kind, target, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, len(content)
            info.uid, info.gid, info.mode = 3, 4, 0o750
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("context")
    contents = {
        "a.txt": b"A", "b.md": b"B", "c.md": b"C", "d/x": b"X", "d/sub/y": b"Y", "d/other/z": b"Z", "e/sub/more": b"M",
        "docs/one.md": b"1", "docs/two.txt": b"2", "archive.tgz": _archive(),
    }  # fmt: skip
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "e" / "empty").mkdir()
    for name, target in {"d/l": "x", "d/abs": "/etc/passwd", "link.txt": "a.txt", "ldir": "d"}.items():
        os.symlink(target, root / name)
    os.link(root / "d" / "x", root / "d" / "hard")
    for name, mode in {"a.txt": 0o640, "d": 0o700, "d/sub": 0o2750, "d/x": 0o4755}.items():
        (root / name).chmod(mode)
    os.chown(root / "b.md", 12, 34)
    return root


def _dockerfile(directory: Path, text: str) -> Path:
    path = directory / "Dockerfile"
    path.write_text("\n".join(line.strip() for line in text.strip().splitlines()) + "\n")
    return path


@pytest.mark.parametrize("subject", SUBJECTS)
def test_trees_are_equal(pybuild: Pybuild, dockerd: Dockerd, context: Path, tmp_path: Path, subject: str) -> None:
    dockerfile = _dockerfile(tmp_path, SUBJECTS[subject])
    pybuild.run("build", "-t", "image", "-f", dockerfile, "-o", f"type=oci,dest={tmp_path / 'ours.tar'}", context)
    layout = f"oci:{tmp_path / 'layout'}:image"
    subprocess.run(["skopeo", "copy", "--quiet", f"oci-archive:{tmp_path / 'ours.tar'}", layout], check=True)
    subprocess.run(["umoci", "unpack", "--image", layout.removeprefix("oci:"), tmp_path / "bundle"], check=True)
    dockerd.run("build", "-f", dockerfile, "--output", f"type=tar,dest={tmp_path / 'theirs.tar'}", context)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    subprocess.run(["tar", "--extract", "--same-owner", "--file", tmp_path / "theirs.tar", "-C", theirs], check=True)
    found = differences(read_tree(tmp_path / "bundle" / "rootfs"), read_tree(theirs))
    # the root directory itself was made by the two unpackers
    assert [line for line in found if not line.startswith(".:")] == []


@pytest.mark.parametrize("case", REFUSED)
def test_both_refuse(pybuild: Pybuild, dockerd: Dockerd, context: Path, tmp_path: Path, case: str) -> None:
    dockerfile = _dockerfile(tmp_path, "FROM scratch\n" + REFUSED[case])
    ours = pybuild.attempt("build", "-f", dockerfile, context)
    assert ours.returncode == 1
    assert "error: " in ours.stderr
    with pytest.raises(pytest.fail.Exception):
        dockerd.run("build", "-f", dockerfile, context)
