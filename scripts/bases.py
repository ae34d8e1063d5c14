"""Makes base images without a registry: busybox ones, and a Debian one from the Debian mirror.

    bases.py [--cache DIR] busybox|busybox-arm64|debian    prints the path of a docker archive (docker, skopeo load it)
    bases.py [--cache DIR] --tar busybox|…                 prints the path of the root filesystem's tar

busybox-arm64 is the same as busybox for another architecture, its program from the Debian mirror.

Both are kept in the cache directory, made once by whoever comes first, and appear there whole or not at all.
Needs only the standard library, so that any Python can run it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple

EPOCH = 1735689600  # 2025-01-01; the same files give the same image everywhere
PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SUITE = "bookworm"
FALLBACK_MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class BaseError(Exception):
    """A base could not be made; the message says why in one line."""


class Base(NamedTuple):
    """One base image: its reference, its default command, and what writes its root filesystem as a tar."""

    reference: str
    command: tuple[str, ...]
    write_root: Callable[[Path], None]
    recipe: str
    architecture: str = ARCHITECTURES.get(os.uname().machine, os.uname().machine)


def _busybox_program() -> Path:
    for candidate in ("/bin/busybox", "/usr/bin/busybox"):
        if Path(candidate).is_file():
            return Path(candidate)
    raise BaseError("busybox is not installed (Debian package busybox-static)")


def _entry(name: str, kind: bytes, mode: int, linkname: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime, info.linkname = kind, mode, EPOCH, linkname
    return info


def write_busybox_root(path: Path) -> None:
    """The root of a busybox image: one static program, its applets as hard links, and the accounts a root needs."""
    _write_busybox_root(path, _busybox_program().read_bytes())


def write_foreign_busybox_root(path: Path) -> None:
    """As `write_busybox_root`, with the program for arm64."""
    with tempfile.TemporaryDirectory() as directory:
        extracted = Path(directory) / "extracted.tar"
        _run_mmdebstrap("--variant=extract", "--include=busybox-static", "--architectures=arm64", path=extracted)
        with tarfile.open(extracted) as tar:
            program = tar.extractfile("./bin/busybox")
            if program is None:
                raise BaseError("the package busybox-static holds no /bin/busybox")
            _write_busybox_root(path, program.read())


def _write_busybox_root(path: Path, content: bytes) -> None:
    # both architectures have the same applets
    command = [_busybox_program(), "--list"]
    applets = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    directories = {"bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "root": 0o700, "tmp": 0o1777}
    directories |= {"usr": 0o755, "usr/sbin": 0o755, "var": 0o755, "var/spool": 0o755, "var/www": 0o755}
    files = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
        "etc/group": "root:x:0:\nwww-data:x:33:\nnobody:x:65534:\n",
        "etc/shadow": "root:*:::::::\nnobody:*:::::::\n",
    }
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode in directories.items():
            tar.addfile(_entry(name, tarfile.DIRTYPE, mode))
        info = _entry("bin/busybox", tarfile.REGTYPE, 0o755)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
        for applet in sorted(set(applets) - {"busybox"}):
            tar.addfile(_entry(f"bin/{applet}", tarfile.LNKTYPE, 0o755, "bin/busybox"))
        for name, text in files.items():
            info = _entry(name, tarfile.REGTYPE, 0o640 if name == "etc/shadow" else 0o644)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))


def _source_texts() -> Iterator[str]:
    etc = Path("/etc/apt")
    for path in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
        if path.suffix in {".list", ".sources"} and path.is_file():
            yield path.read_text(encoding="utf-8", errors="replace")


def machine_mirror() -> str:
    """The mirror this machine's apt takes bookworm from, or deb.debian.org."""
    for text in _source_texts():
        line = re.search(rf"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+{SUITE}\s+.*\bmain\b", text, re.MULTILINE)
        if line:
            return line.group(1).rstrip("/")
        for stanza in re.split(r"\n\s*\n", text):
            uri = re.search(r"^URIs:\s*(\S+)", stanza, re.MULTILINE)
            if uri and re.search(rf"^Suites:.*(?<!\S){SUITE}(?!\S)", stanza, re.MULTILINE):
                return uri.group(1).rstrip("/")
    return FALLBACK_MIRROR


def write_debian_root(path: Path) -> None:
    """The root of a minimal Debian bookworm, made by mmdebstrap from signed packages."""
    _run_mmdebstrap("--variant=minbase", path=path)


def _as_root() -> list[str]:
    """What makes a plain user root of namespaces: who else would be it may not enter his directories."""
    return [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--map-auto", "--mount", "--"]


def _run_mmdebstrap(*options: str, path: Path) -> None:
    mirror = machine_mirror()
    command = [*_as_root(), "mmdebstrap", *options, "--format=tar", f"--keyring={KEYRING}", SUITE, str(path)]
    command.append(f"deb {mirror} {SUITE} main")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    try:
        # errors="replace": the log holds the names of whatever packages unpack
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise BaseError("mmdebstrap is not installed (Debian package mmdebstrap)") from error
    if done.returncode != 0:
        reasons = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))][-3:]
        raise BaseError(f"mmdebstrap could not make {SUITE} from {mirror}: {' | '.join(reasons) or done.stderr[-200:]}")


BASES = {
    "busybox": Base("busybox:latest", ("sh",), write_busybox_root, "1"),
    "busybox-arm64": Base("busybox:arm64", ("sh",), write_foreign_busybox_root, "1", "arm64"),
    "debian": Base("debian:bookworm", ("bash",), write_debian_root, "1"),
}


def _write_archive(base: Base, root: Path, archive: Path) -> None:
    with open(root, "rb") as file:
        diff_id = hashlib.file_digest(file, "sha256").hexdigest()
    created = "2025-01-01T00:00:00Z"
    config = {
        "architecture": base.architecture,
        "os": "linux",
        "created": created,
        "config": {"Env": [PATH_ENV], "Cmd": list(base.command)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
        "history": [{"created": created, "created_by": f"root filesystem of {base.reference}"}],
    }
    raw = json.dumps(config).encode()
    name = f"{hashlib.sha256(raw).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [base.reference], "Layers": [f"{diff_id}/layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for member, content in ((name, raw), ("manifest.json", json.dumps(manifest).encode())):
            info = _entry(member, tarfile.REGTYPE, 0o644)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        with open(root, "rb") as file:
            info = _entry(f"{diff_id}/layer.tar", tarfile.REGTYPE, 0o644)
            info.size = root.stat().st_size
            tar.addfile(info, file)


@contextlib.contextmanager
def _only_one(cache: Path, name: str) -> Generator[None]:
    with open(cache / f".{name}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(name: str, cache: Path) -> tuple[Path, Path]:
    """The root filesystem's tar and the docker archive of a base are in ``cache``: their paths."""
    base = BASES[name]
    cache.mkdir(parents=True, exist_ok=True)
    root, archive = cache / f"{name}-{base.recipe}.rootfs.tar", cache / f"{name}-{base.recipe}.docker.tar"
    with _only_one(cache, name):
        partial = cache / f".{name}-{os.getpid()}.tar"
        try:
            if not root.exists():
                base.write_root(partial)
                partial.rename(root)
            if not archive.exists():
                _write_archive(base, root, partial)
                partial.rename(archive)
        finally:
            partial.unlink(missing_ok=True)
    return root, archive


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/pybuild-demo``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pybuild-demo"


def main() -> int:
    """Prints the path of one base."""
    parser = argparse.ArgumentParser(description="make a base image without a registry")
    parser.add_argument("name", choices=sorted(BASES))
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where bases are kept (%(default)s)")
    parser.add_argument("--tar", action="store_true", help="print the root filesystem's tar, not the docker archive")
    arguments = parser.parse_args()
    try:
        root, archive = make(arguments.name, arguments.cache)
    except (BaseError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(root if arguments.tar else archive)
    return 0


if __name__ == "__main__":
    sys.exit(main())
