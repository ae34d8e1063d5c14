"""What stands on stdout is data alone; which file is built; how a signal ends what has not begun."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from harness.pybuild import Pybuild
from harness.waiting import wait_until


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "a").write_text("a\n")
    (directory / "Dockerfile").write_text("FROM scratch\nCOPY a /a\n")
    return directory


@pytest.mark.parametrize("output", ["-", "type=tar", "type=tar,dest=-", "type=tar,dest=/dev/stdout", "type=oci"])
@pytest.mark.parametrize("to_file", [False, True])
def test_an_archive_is_all_there_is(
    pybuild: Pybuild, context: Path, tmp_path: Path, output: str, to_file: bool
) -> None:
    target = tmp_path / "out"
    with open(target, "wb") as file:
        done = subprocess.run(
            pybuild.command("build", "-q", "-o", output, context),
            env=pybuild.environment(),
            stdout=file if to_file else subprocess.PIPE,
            check=True,
        )
    data = target.read_bytes() if to_file else done.stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        end = tar.offset
    assert ("index.json" if "oci" in output else "a") in names
    assert data[end:].strip(b"\0") == b"", "nothing follows"


def test_no_archive_is_written_to_a_terminal(pybuild: Pybuild, context: Path) -> None:
    master, terminal = pty.openpty()
    try:
        done = subprocess.run(
            pybuild.command("build", "-o", "-", context),
            env=pybuild.environment(),
            stdout=terminal,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(terminal)
        os.close(master)
    assert done.returncode == 2
    assert b"an archive is not written to a terminal" in done.stderr


def test_a_directory_is_not_stdout(pybuild: Pybuild, context: Path) -> None:
    done = pybuild.attempt("build", "-o", "type=local,dest=-", context)
    assert done.returncode == 2
    assert "type=tar can go there" in done.stderr


def test_a_containerfile_is_found_where_there_is_no_dockerfile(pybuild: Pybuild, context: Path) -> None:
    (context / "Dockerfile").rename(context / "Containerfile")
    assert "load build definition from Containerfile" in pybuild.run("build", "--progress", "plain", context).stderr
    (context / "Dockerfile").write_text("FROM scratch\nCOPY a /b\n")
    assert "load build definition from Dockerfile" in pybuild.run("build", "--progress", "plain", context).stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_runs(pybuild: Pybuild, context: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        pybuild.command("build", "-f", "-", context),
        env=pybuild.environment(),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as build:
        # the store is there, and the Dockerfile is waited for
        wait_until((pybuild.root / "oci-layout").exists, "the store")
        build.send_signal(number)
        said = build.communicate(timeout=20)[1]
    assert build.returncode == 130
    assert said == b"pybuild: interrupted\n"


@pytest.mark.parametrize(
    ("words", "redirection", "status", "message"),
    [
        (("-",), "<&-", 1, "error: context - is empty"),
        (("-f", "-", "."), "<&-", 1, "error: - holds no instructions"),
        (("-q", "."), ">&-", 1, "error: stdout: bad file descriptor"),
        (("--progress", "plain", "."), ">&-", 0, "exporting to image"),
        (("-o", "-", "."), ">&-", 1, "error: output '-': bad file descriptor"),
        (("-o", "-", "."), ">/dev/full", 1, "error: output '-': no space left on device"),
        (("-q", "."), ">/dev/full", 1, "error: stdout: no space left on device"),
        (("--iidfile", "/dev/full", "."), "", 1, "error: --iidfile '/dev/full': no space left on device"),
        (("-q", "."), "2>&-", 0, ""),
        (("-q", "."), "<&- 2>&-", 0, ""),
    ],
)
def test_a_stream_that_is_closed_or_full(
    pybuild: Pybuild, context: Path, words: tuple[str, ...], redirection: str, status: int, message: str
) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *pybuild.command("build", *words)],
        env=pybuild.environment(),
        cwd=context,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_reads_an_archive_to_its_end(pybuild: Pybuild, context: Path) -> None:
    with open(context / "a", "wb") as file:
        file.truncate(4 << 20)
    for words in (["build", "-o", "-", str(context)], ["save", "it"]):
        pybuild.run("build", "-t", "it", context)
        with subprocess.Popen(
            pybuild.command(*words), env=pybuild.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(10)
            process.stdout.close()
            assert process.wait() == 1
            assert process.stderr.read().splitlines()[-1] == b"error: output '-': broken pipe"


def test_an_id_that_cannot_be_written_leaves_no_part_of_it(pybuild: Pybuild, context: Path, tmp_path: Path) -> None:
    target = tmp_path / "ids" / "id"
    target.parent.mkdir()
    pybuild.run("build", "--iidfile", target, context)
    assert target.read_text().startswith("sha256:")
    assert os.listdir(target.parent) == ["id"]
    (context / "Dockerfile").write_text("FROM scratch\nCOPY absent /\n")
    assert pybuild.attempt("build", "--check", "--iidfile", target, context).returncode == 0
    assert target.exists()
    link = target.parent / "link"
    link.symlink_to("id")
    assert pybuild.attempt("build", "--iidfile", link, context).returncode == 1
    assert target.exists(), "what a link leads to may be anything, as with /dev/stdout"
    assert pybuild.attempt("build", "--iidfile", target, context).returncode == 1
    assert not target.exists(), "of an earlier build"
