"""dpkg at work on the union: directory renames, fsync, hard links, diversions, triggers, alternatives."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.pybuild import Pybuild

DOCKERFILE = """\
FROM debian:bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends \\
    git make perl-modules-5.36 python3-minimal vim-tiny less file ca-certificates openssl sqlite3 rsync xz-utils \\
    zip unzip patch bc tree procps psmisc iproute2 netcat-openbsd openssh-client
RUN dpkg --audit && dpkg --verify >/verify.txt; dpkg-query --show | wc -l >/count.txt
RUN apt-get purge --yes git vim-tiny && apt-get autoremove --yes && ! command -v git && dpkg --audit
"""


@pytest.mark.slow
@pytest.mark.ids("builds on Debian, whose files have many owners")
def test_dozens_of_packages_install_verify_and_go(workshop: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    workshop.run("build", "--progress", "plain", "-t", "packages", tmp_path)
    printed = workshop.run("run", "packages", "sh", "-c", "cat /count.txt /verify.txt").stdout.splitlines()
    assert int(printed[0]) > 120
    assert printed[1:] == []
    assert workshop.run("run", "packages", "sh", "-c", "dpkg --audit; python3 -c 'print(6 * 7)'").stdout == "42\n"
