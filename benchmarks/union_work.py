"""U12: real work in the union as root file system: apt-get, pip, make and git in a Debian root.

The lower branches are a Debian root made by mmdebstrap and, above it, what the work needs: compiler, pip, git,
downloaded packages, 20 wheels, the sources of a C program, a repository of 50,000 files. Nothing is downloaded while it
is measured.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from measure import Goal, arguments, report
from unions import KERNEL, OURS_OFF, unions

from harness.bases import unpacked

TOOLS = "gcc libc6-dev make git python3-pip"
PACKAGES = (
    "tree less file bc zip unzip rsync sqlite3 procps psmisc iproute2 netcat-openbsd openssh-client vim-tiny nano "
    "screen tmux lsof strace time gawk jq dos2unix pv moreutils parallel ncdu htop dialog whiptail cpio lzop zstd "
    "brotli wget curl gnupg bind9-dnsutils tcpdump traceroute"
)
WHEELS = 20
MODULES = 60
C_FILES = 60
TRACKED_DIRECTORIES = 500
TRACKED_FILES = 100
WORKS = {
    "apt-get install of 40 packages": f"apt-get install -y --no-download --no-install-recommends {PACKAGES}",
    "pip install of 20": "python3 -m pip install --break-system-packages --no-index /work/wheels/*",
    "make -j2 of a C program": "make -s -j2 -C /work/program",
    "git status of 50,000 files": "git -C /work/tree status --short",
}


def inside(root: Path, command: str) -> None:
    """The command is run in the root, with /proc and /dev, by a shell."""
    binds = f"mount --rbind /proc {root}/proc; mount --rbind /dev {root}/dev"
    script = f"{binds}; exec chroot {root} sh -ec {shlex.quote(command)}"
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root"}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script],
        env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stdout[-1000:]}{done.stderr[-2000:]}")


def make_wheel(directory: Path, name: str) -> None:
    """A wheel of many small modules."""
    info = f"{name}-1.0.dist-info"
    texts = {
        f"{name}/__init__.py": "",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    texts |= {f"{name}/module_{number}.py": f"def f(x):\n    return x + {number}\n" * 40 for number in range(MODULES)}
    texts[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    texts[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*texts, f"{info}/RECORD"])
    with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, text in texts.items():
            wheel.writestr(path, text)


def make_program(directory: Path) -> None:
    """Sources that include the headers of the C library, and a Makefile."""
    body = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n#include <pthread.h>\n"
    for number in range(C_FILES):
        text = f'{body}int f{number}(int x) {{ char t[64]; snprintf(t, 64, "%d", x); return atoi(t) + {number}; }}\n'
        (directory / f"f{number}.c").write_text(text)
    (directory / "main.c").write_text("int f0(int);\nint main(void) { return f0(1) != 1; }\n")
    objects = " ".join([f"f{number}.o" for number in range(C_FILES)] + ["main.o"])
    (directory / "Makefile").write_text(f"program: {objects}\n\t$(CC) -o $@ $^\n")


def make_repository(directory: Path) -> None:
    """Small files, to be committed."""
    for number in range(TRACKED_DIRECTORIES):
        (directory / f"d{number}").mkdir()
        for file in range(TRACKED_FILES):
            (directory / f"d{number}/f{file}").write_text(f"{number} {file}\n")


def prepare(base: Path, debian: Path) -> Path:
    """A branch with all that the work needs."""
    for name in ("prepared", "prepared-work", "prepared-root"):
        (base / name).mkdir()
    options = f"lowerdir={debian},upperdir={base}/prepared,workdir={base}/prepared-work"
    root = base / "prepared-root"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
    try:
        (root / "etc/resolv.conf").write_text(Path("/etc/resolv.conf").read_text())
        inside(root, f"apt-get update && apt-get install -y --no-install-recommends {TOOLS}")
        inside(root, f"apt-get install -y --download-only --no-install-recommends {PACKAGES}")
        for name, make in (("wheels", None), ("program", make_program), ("tree", make_repository)):
            (root / "work" / name).mkdir(parents=True)
            if make is not None:
                make(root / "work" / name)
        for number in range(WHEELS):
            make_wheel(root / "work/wheels", f"wheel{number}")
        identity = "-c user.name=bench -c user.email=bench@example.invalid"
        inside(root, f"cd /work/tree && git init -q . && git add . && git {identity} commit -q -m files")
    finally:
        subprocess.run(["umount", root], check=True)
    return base / "prepared"


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=3)
    met = True
    with tempfile.TemporaryDirectory(prefix="union-work-") as name:
        base = Path(name)
        debian = unpacked("debian")
        lowers = [prepare(base, debian), debian]
        with unions(base, lowers, without=["unionfs-fuse", "mergerfs"]) as here:
            for title, command in WORKS.items():
                rows = here.measure(options, lambda root, command=command: inside(root, command))
                goals = [Goal("fuse-overlayfs", 1.0), Goal(KERNEL, 1.25), Goal("fuse-overlayfs", 1.0, OURS_OFF)]
                met &= report(f"U12 {title}", rows, goals=goals, absent=here.absent)
    return 0 if met else 1


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
