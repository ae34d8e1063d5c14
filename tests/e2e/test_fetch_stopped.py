"""A signal while something is fetched: the build ends with 130 and leaves nothing, whatever was under way."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.pybuild import Pybuild
from harness.web import Page, Repository, Web, serving

DEADLINE_SECONDS = 30
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with serving() as web:
        web.repositories = tmp_path
        web.pages["/slow.tgz"] = Page(b"begun", stalls=True)
        Repository(tmp_path, "project").commit({"Dockerfile": "FROM scratch\nCOPY . /\n"})
        yield web


def left(pybuild: Pybuild) -> list[str]:
    """What a fetch would leave: unpacked files, halves of downloads."""
    halves = [path for path in (pybuild.root / "downloads").rglob("*") if path.is_file()]
    return [str(path) for path in (*(pybuild.root / "layers" / "active").glob("*"), *halves)]


def stop(
    pybuild: Pybuild,
    arguments: list[str],
    ready: Callable[[str], bool],
    number: signal.Signals,
    stdin: int = subprocess.DEVNULL,
) -> None:
    """The build was told to end once it was ``ready``, which is asked with what it has said so far; it ended so."""
    log = pybuild.root.parent / "said"
    with (
        open(log, "wb") as stderr,
        subprocess.Popen(
            pybuild.command("build", "--progress", "plain", *arguments),
            env=pybuild.environment(),
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not ready(log.read_text()):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(number)
            process.send_signal(number)
            process.wait(DEADLINE_SECONDS)
        finally:
            process.kill()
    said = log.read_text()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert " CANCELED" in said or "--check" in arguments


@pytest.mark.parametrize(
    ("silent", "number"), [("", signal.SIGTERM), ("info/refs", signal.SIGINT), ("git-upload-pack", signal.SIGTERM)]
)
def test_context_from_elsewhere(pybuild: Pybuild, web: Web, silent: str, number: signal.Signals) -> None:
    web.silent = silent or "nothing"
    context = f"{web.url}/project.git" if silent else f"{web.url}/slow.tgz"
    stop(pybuild, [context], lambda _: web.stalled.is_set(), number)
    assert left(pybuild) == []
    web.silent = "nothing"
    web.resume.set()
    pybuild.run("build", f"{web.url}/project.git")


def test_named_context_and_check(pybuild: Pybuild, web: Web, tmp_path: Path) -> None:
    number = signal.SIGINT
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY --from=files . /\n")
    arguments = ["--build-context", f"files={web.url}/slow.tgz", str(tmp_path)]
    stop(pybuild, arguments, lambda _: web.stalled.is_set(), number)
    assert left(pybuild) == []
    web.stalled.clear()
    stop(pybuild, ["--check", *arguments], lambda _: web.stalled.is_set(), number)
    assert left(pybuild) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_context_on_stdin_that_never_ends(pybuild: Pybuild, number: signal.Signals) -> None:
    with subprocess.Popen(["sleep", "600"], stdout=subprocess.PIPE) as endless:
        try:
            assert endless.stdout is not None
            stop(pybuild, ["-"], lambda said: "load remote build context" in said, number, endless.stdout.fileno())
        finally:
            endless.kill()
    assert left(pybuild) == []


def test_time_of_a_stage(pybuild: Pybuild, web: Web, tmp_path: Path) -> None:
    number = signal.SIGTERM
    (tmp_path / "Dockerfile").write_text(f"FROM scratch AS src\nADD {web.url}/slow.tgz /\nFROM scratch\nCOPY x /\n")
    arguments = ["--build-arg", "SOURCE_DATE_EPOCH=src", str(tmp_path)]
    stop(pybuild, arguments, lambda _: web.stalled.is_set(), number)
    assert left(pybuild) == []
