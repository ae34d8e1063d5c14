"""``--runtime``: a build whose steps an OCI runtime runs makes the same image, and leaves as little behind."""

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path

import pytest

from harness.pybuild import Pybuild
from harness.waiting import processes_with, wait_until

DOCKERFILE = """FROM busybox
COPY file /file
RUN --mount=type=cache,target=/var/c --mount=type=bind,source=file,target=/deep/er/f --mount=type=secret,id=s \
    cat /deep/er/f /run/secrets/s > /seen; touch /var/c/x
RUN <<X
#!/bin/sh
echo $0 > /script
X
USER 1000:1000
WORKDIR /home/w
RUN id > id; touch /tmp/u; mkdir -p /tmp/deep
"""


@pytest.mark.ids("gives files away")
def test_image_is_the_same(small: Pybuild, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "file").write_text("content\n")
    (tmp_path / "secret").write_text("hush\n")
    words = ["-q", "--no-cache", "--secret", f"id=s,src={tmp_path}/secret", str(context)]
    ids = {
        runtime: small.run("build", *filter(None, [runtime]), *words, env={"SOURCE_DATE_EPOCH": "1700000000"}).stdout
        for runtime in ("", "--runtime=runc", "--runtime=crun")
    }
    assert len(set(ids.values())) == 1, ids


def test_failure_has_the_commands_status(small: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo said; exit 42\n")
    done = small.attempt("build", "--progress", "plain", "--runtime", "crun", tmp_path)
    assert done.returncode == 42
    assert "did not complete successfully: exit code: 42" in done.stderr


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("rnc", "error: runtime 'rnc' is not in PATH; installed: runc, crun", "hint: did you mean runc?"),
        ("./none", "error: runtime './none': no such file", ""),
        ("/bin/true", "error: runtime '/bin/true' is no OCI runtime: --version says", ""),
    ],
)
def test_runtime_that_will_not_do(small: Pybuild, tmp_path: Path, name: str, message: str, hint: str) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    for words in (["build", str(tmp_path)], ["run", "busybox", "true"]):
        done = small.attempt(words[0], "--runtime", name, *words[1:])
        assert done.returncode == 1
        assert message in done.stderr
        assert hint in done.stderr


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_killed_pybuild_takes_the_runtime_with_it(small: Pybuild, runtime: str) -> None:
    word = f"marker{uuid.uuid4().hex}"
    script = f"trap '' TERM INT; setsid sh -c 'while true; do sleep 1; done' {word} & sleep 1000"
    with subprocess.Popen(
        small.command("run", "--runtime", runtime, "busybox", "sh", "-c", script),
        env=small.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        # the option's value, the runtime's config, and the command itself
        wait_until(lambda: len(processes_with(word)) > 1, "the command to start")
        process.kill()
    wait_until(lambda: not processes_with(word), "the command to end")
    small.run("run", "busybox", "true")
    assert os.listdir(small.root / "layers" / "active") == []
