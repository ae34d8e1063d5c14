"""Build contexts from data: a table of names, what each is, and its metadata."""

from __future__ import annotations

import functools
import io
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MTIME = 1_600_000_000
"""Time of every file that says no other."""

_SOURCES = Path(__file__).resolve().parents[1] / "corpus" / "differential"
_TYPES = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}


def make_context(root: Path, files: Mapping[str, Any]) -> Path:
    r"""``root`` holds ``files``; directories on the way are made. ``\xNN`` in a name is that byte.

    A value is the text of a file, or a table with one of text, hex, size (sparse), symlink, hardlink, fifo, directory,
    archive (members as here, written by tar, with ``compress``), program (a C source beside the corpus), and with
    mode, uid, gid, mtime, xattrs.
    """
    root.mkdir(parents=True)
    for name, value in files.items():
        path = root / _decoded(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        _make(root, path, value if isinstance(value, dict) else {"text": value})
    for name, value in sorted(files.items(), reverse=True):
        described = value if isinstance(value, dict) else {}
        _dress(root / _decoded(name), described)
    for directory, names, _ in os.walk(root):
        for name in names:
            if not _is_named(files, os.path.relpath(os.path.join(directory, name), root)):
                os.utime(os.path.join(directory, name), (MTIME, MTIME), follow_symlinks=False)
    return root


def _is_named(files: Mapping[str, Any], name: str) -> bool:
    return name in files or f"{name}/" in files


def _decoded(name: str) -> str:
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), os.fsencode(name))
    return os.fsdecode(raw)


def _make(root: Path, path: Path, value: dict[str, Any]) -> None:
    if value.get("directory"):
        path.mkdir(exist_ok=True)
    elif "symlink" in value:
        path.symlink_to(value["symlink"])
    elif "hardlink" in value:
        path.hardlink_to(root / value["hardlink"])
    elif value.get("fifo"):
        os.mkfifo(path)
    else:
        path.write_bytes(_content(value))
        if "size" in value:
            os.truncate(path, value["size"])
        if "program" in value:
            path.chmod(0o755)


def _content(value: dict[str, Any]) -> bytes:
    if "hex" in value:
        return bytes.fromhex(value["hex"])
    if "archive" in value:
        return _archive(value["archive"], value.get("compress", ""))
    if "program" in value:
        return _program(value["program"])
    return str(value.get("text", "")).encode()


def _dress(path: Path, value: dict[str, Any]) -> None:
    if "hardlink" in value:
        return
    link = path.is_symlink()
    os.chown(path, value.get("uid", 0), value.get("gid", 0), follow_symlinks=False)
    if "mode" in value and not link:
        path.chmod(value["mode"])
    for name, text in value.get("xattrs", {}).items():
        os.setxattr(path, name, text.encode())
    mtime = value.get("mtime", MTIME)
    os.utime(path, (mtime, mtime), follow_symlinks=False)


def _archive(members: list[dict[str, Any]], compress: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            _add_member(tar, member)
    if not compress:
        return out.getvalue()
    return subprocess.run([compress, "-c"], input=out.getvalue(), stdout=subprocess.PIPE, check=True).stdout


def _add_member(tar: tarfile.TarFile, member: dict[str, Any]) -> None:
    info = tarfile.TarInfo(member["name"])
    content = str(member.get("text", "")).encode()
    info.type = tarfile.DIRTYPE if member["name"].endswith("/") else tarfile.REGTYPE
    for key, kind in _TYPES.items():
        if key in member:
            info.type = kind
            info.linkname = member[key] if isinstance(member[key], str) else ""
    if "device" in member:
        info.type = tarfile.CHRTYPE
        info.devmajor, info.devminor = member["device"]
    info.mode = member.get("mode", 0o755 if info.isdir() else 0o644)
    info.uid, info.gid = member.get("uid", 0), member.get("gid", 0)
    info.mtime = member.get("mtime", MTIME)
    info.size = len(content)
    info.pax_headers = {f"SCHILY.xattr.{name}": text for name, text in member.get("xattrs", {}).items()}
    tar.addfile(info, io.BytesIO(content))


@functools.cache
def _program(name: str) -> bytes:
    """A static program, compiled once in a session."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "program"
        command = ["gcc", "-static", "-O1", "-s", "-Wall", "-Werror", "-o", target, _SOURCES / name]
        subprocess.run(command, check=True)
        return target.read_bytes()
