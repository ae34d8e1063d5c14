"""Builds where nothing can be mounted: what a step sees lies in its root as files, and none of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from harness.pybuild import Pybuild
from harness.trees import differences, read_tree
from harness.waiting import processes_with, wait_until

pytestmark = pytest.mark.root("has the level no-namespaces")

LEVEL = ("--isolation", "no-namespaces")
SECRET = "a-secret-that-nobody-writes"
MOUNTS = """\
FROM busybox AS other
RUN mkdir -p /tree/below && echo seed >/tree/below/file && chown -R 3:4 /tree
FROM busybox
RUN mkdir -p /var/cache/apt /data && echo old >/var/cache/apt/old && chmod 700 /var/cache/apt && ln -s data /link && \\
    echo kept >/etc/token && touch -d @1000000000 /etc /var/cache /
RUN --mount=type=cache,target=/var/cache/apt,from=other,source=tree --mount=type=cache,target=/a/b/c,id=second \\
    --mount=type=bind,target=/link,rw --mount=type=bind,from=other,source=/tree/below/file,target=/srv/x/file \\
    --mount=type=secret,id=token,target=/etc/token --mount=type=secret,id=token,uid=7,mode=0440 \\
    --mount=type=tmpfs,target=/home \\
    test "$(cat /etc/token)" = "$(cat /run/secrets/token)" && test "$(stat -c '%u %a' /run/secrets/token)" = "7 440" && \\
    cat /var/cache/apt/below/file /srv/x/file /data/Dockerfile >/sum && test ! -e /var/cache/apt/old && \\
    echo 1 >/var/cache/apt/new && echo 1 >>/var/cache/apt/below/file && echo 1 >/a/b/c/1 && echo 1 >/data/1 && \\
    touch /home/1 /dev/1 /dev/shm/1 && grep -q localhost /etc/hosts && test -e /etc/resolv.conf && test -s /etc/hostname
RUN --mount=type=cache,target=/there,id=/var/cache/apt --mount=type=cache,target=/a/b/c,id=second,readonly \\
    cat /there/new /there/below/file /a/b/c/1 /var/cache/apt/old >/sums && stat -c %u /there/below >>/sums
RUN <<EOT
#!/bin/sh
test ! -e /a && test ! -e /run && test ! -e /srv && touch /script
EOT
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (tmp_path / "token").write_text(SECRET)
    return directory


def dockerfile(context: Path, *lines: str) -> Path:
    (context / "Dockerfile").write_text("\n".join(("FROM busybox", *lines)) + "\n")
    return context


def test_mounts_are_what_they_are_elsewhere(small: Pybuild, context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text(MOUNTS)
    trees = []
    for name, options in (("mounted", ()), ("copied", LEVEL)):
        small.run("cache prune", "--all", "--force")
        small.load_base("busybox")
        archive, root = tmp_path / f"{name}.tar", tmp_path / name
        secret = f"id=token,src={tmp_path / 'token'}"
        small.run("build", *options, "--no-cache", "--secret", secret, "-o", f"type=tar,dest={archive}", context)
        root.mkdir()
        subprocess.run(["tar", "-x", "-p", "--xattrs", "--numeric-owner", "-f", archive, "-C", root], check=True)
        trees.append(read_tree(root))
    assert differences(trees[1], trees[0]) == []
    assert os.listdir(small.root / "layers" / "active") == []
    found = subprocess.run(["grep", "-r", "-l", SECRET, small.root], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_mount_points_that_a_step_removes_are_back(small: Pybuild, context: Path, tmp_path: Path) -> None:
    """And what lay there; where it went by links that a step made, nothing outside is touched."""
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    (outside / "b/c").write_text("of the host")
    mounts = "--mount=type=cache,target=/a/b/c --mount=type=bind,target=/m/x --mount=type=cache,target=/lost,id=lost"
    dockerfile(
        context,
        "RUN mkdir -p /a/b/c /q && echo 1 >/a/b/c/1 && echo 1 >/q/one && ln /q/one /q/two",
        "RUN --mount=type=bind,source=Dockerfile,target=/q/one echo 2 >/q/two",
        "RUN test $(cat /q/one) = 2",
        f"RUN {mounts} rm -r /m /etc/hosts /lost && mkdir /kept && mv /a /z && ln -s {outside} /a && echo 1 >/etc/hosts",
        "RUN test -d /kept && test ! -e /m && test ! -e /lost && test -s /etc/hosts && test ! -L /a/b && rm /a && test -e /z/b/c/1",
    )
    small.run("build", *LEVEL, "-t", "image", context)
    assert [path.name for path in outside.iterdir()] == ["b"]
    assert (outside / "b/c").read_text() == "of the host"
    assert small.run("run", *LEVEL, "image", "cat", "/z/b/c/1").stdout == "1\n"


def test_programs_find_what_there_can_be_of_proc_and_dev(small: Pybuild, context: Path) -> None:
    dockerfile(
        context, "RUN echo to-stderr >/dev/stderr && grep -c ^processor /proc/cpuinfo && head -c 3 /dev/zero | wc -c"
    )
    told = small.run("build", *LEVEL, "--progress", "plain", context).stderr
    assert "to-stderr" in told
    assert f" {os.cpu_count()}\n" in told
    assert "isolation of steps: no-namespaces\n" in told
    assert "WARN: isolation no-namespaces is the weakest" in told


def test_a_failure_for_want_of_proc_names_what_helps(small: Pybuild, context: Path) -> None:
    dockerfile(context, "RUN cat /proc/self/status")
    told = small.attempt("build", *LEVEL, context).stderr
    assert "hint: steps have no /proc at isolation no-namespaces: a container made by docker run --device" in told
    dockerfile(context, "RUN echo other; false")
    assert "no /proc at isolation no-namespaces: a" not in small.attempt("build", *LEVEL, context).stderr


def test_a_mount_of_another_kind_than_its_target_is_refused(small: Pybuild, context: Path) -> None:
    dockerfile(context, "RUN --mount=type=cache,target=/etc/passwd true")
    told = small.attempt("build", *LEVEL, context).stderr
    assert "error: the step can't be furnished: '/etc/passwd': not a directory" in told
    assert os.listdir(small.root / "layers" / "active") == []


def test_a_cache_is_whole_after_a_kill(small: Pybuild, context: Path) -> None:
    word = "1000000057"  # seconds that no other process sleeps
    dockerfile(context, "RUN --mount=type=cache,target=/c echo first >/c/file")
    small.run("build", *LEVEL, context)
    dockerfile(context, f"RUN --mount=type=cache,target=/c rm /c/file; echo begun; sleep {word}")
    command = small.command("build", *LEVEL, "--progress", "plain", context)
    with subprocess.Popen(command, env=small.environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        while "begun" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.stderr.read()
    wait_until(lambda: not processes_with(word), "the processes of the steps to end")
    dockerfile(context, "RUN --mount=type=cache,target=/c test $(cat /c/file) = first")
    small.run("build", *LEVEL, context)
    assert os.listdir(small.root / "layers" / "active") == []


def test_steps_at_once_share_a_cache_one_after_the_other(small: Pybuild, context: Path) -> None:
    mount = "--mount=type=cache,target=/c"
    stages = "".join(f"FROM busybox AS s{n}\nRUN {mount} echo {n} >>/c/all && touch /{n}\n" for n in range(4))
    copies = "".join(f"COPY --from=s{n} /{n} /\n" for n in range(4))
    (context / "Dockerfile").write_text(f"{stages}FROM busybox\n{copies}RUN {mount} sort /c/all >/all\n")
    small.run("build", *LEVEL, "-t", "image", context)
    assert small.run("run", *LEVEL, "image", "cat", "/all").stdout.split() == ["0", "1", "2", "3"]


def test_a_step_that_failed_is_walked_into_with_its_mounts(small: Pybuild, context: Path) -> None:
    mounts = "--mount=type=cache,target=/c --mount=type=bind,target=/b --mount=type=bind,target=/gone"
    dockerfile(context, f"RUN {mounts} cp /b/Dockerfile /c/1; rmdir /gone; rm -r /gone; false")
    assert small.attempt("build", *LEVEL, context).returncode == 1
    for _ in range(2):
        # what is done there is thrown away
        shown = small.run("shell", *LEVEL, "@", "sh", "-c", "ls /b /c; rm -r /b/* /c/*").stdout
        assert shown.split() == ["/b:", "Dockerfile", "/c:", "1"]


def test_run_shows_copies_of_what_it_may_not_mount(small: Pybuild, context: Path) -> None:
    dockerfile(context)
    shown = small.run("run", *LEVEL, "-v", f"{context}:/v:ro", "busybox", "sh", "-c", "rm /v/Dockerfile; ls -a /v")
    assert shown.stdout.split() == [".", ".."]
    assert (context / "Dockerfile").exists()
    refused = small.attempt("run", *LEVEL, "-v", f"{context}:/v", "busybox", "true")
    assert refused.stderr.splitlines() == [
        f"error: {str(context)!r} can't be shown to be written at isolation no-namespaces: nothing can be mounted",
        "hint: with :ro the command sees a copy of it at /v",
    ]
