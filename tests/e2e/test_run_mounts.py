"""RUN --mount and here-documents that are scripts: what the step sees, and that none of it is in the image."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.pybuild import Pybuild, step_outcomes
from harness.waiting import wait_until

SECRET = "very-hidden-words"


@pytest.fixture
def store(pybuild: Pybuild) -> Pybuild:
    pybuild.load_base("busybox")
    return pybuild


def build(store: Pybuild, context: Path, dockerfile: str, *arguments: str) -> str:
    (context / "Dockerfile").write_text(dockerfile)
    return store.run("build", "--progress", "plain", "-t", "mounted", *arguments, context).stderr


def started(store: Pybuild, *words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        store.command(*words), env=store.environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )  # type: ignore[arg-type]


def names_in_layers(store: Pybuild, tmp_path: Path) -> set[str]:
    """All names in the layers above the base."""
    archive = tmp_path / "image.tar"
    store.run("save", "-o", archive, "mounted")
    directory = tmp_path / "image"
    directory.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", directory], check=True)
    layers = json.loads((directory / "manifest.json").read_text())[0]["Layers"][1:]
    listed = [subprocess.run(["tar", "-tf", directory / layer], capture_output=True, check=True) for layer in layers]
    return {name for done in listed for name in done.stdout.decode().split()}


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    (directory / "src").mkdir(parents=True)
    (directory / "src" / "file").write_text("from the context\n")
    return directory


def test_bind_shows_the_context_and_keeps_writes_out(store: Pybuild, context: Path, tmp_path: Path) -> None:
    build(
        store,
        context,
        "FROM busybox\n"
        "RUN --mount=type=bind,source=src,target=/src grep context /src/file && ! touch /src/x\n"
        "RUN --mount=type=bind,source=src,target=/src,rw touch /src/x && test -e /src/x\n"
        "RUN --mount=type=bind,source=src/file,target=/one test -f /one\n"
        "RUN --mount=target=/etc/deep/src,source=src --mount=type=cache,target=/root/c echo more > /etc/deep/more || true\n"
        "RUN --mount=target=/etc/src,source=src --mount=type=cache,target=/bin/c --mount=type=tmpfs,target=/root/t true\n",
    )
    # a directory that a command wrote into is there, none in which only a mount point was
    assert names_in_layers(store, tmp_path) <= {"./", "etc/", "etc/deep/", "etc/deep/more"}
    assert sorted(path.name for path in (context / "src").iterdir()) == ["file"]


def test_bind_of_another_stage_is_known_by_content(store: Pybuild, context: Path) -> None:
    dockerfile = (
        "FROM busybox AS tools\nRUN mkdir /t && echo tool > /t/tool{change}\n"
        "FROM busybox\nRUN --mount=from=tools,source=/t,target=/tools cat /tools/tool > /seen\n"
    )
    build(store, context, dockerfile.format(change=""))
    same = build(store, context, dockerfile.format(change=" && touch -d @1 /t /t/tool"))
    assert [end for title, end in step_outcomes(same).items() if "--mount" in title] == ["CACHED"]
    other = build(store, context, dockerfile.format(change=" && echo more >> /t/tool"))
    assert [end for title, end in step_outcomes(other).items() if "--mount" in title] == ["DONE"]


MERGED = """\
FROM busybox AS other
RUN mkdir -p /srv/app/deep /srv/gone /srv/again && echo 1 >/srv/app/one && echo 1 >/srv/app/hidden && echo 1 >/srv/again/old \\
    && echo file >/srv/file && ln -s app /srv/link && ln /srv/app/one /srv/app/same && chown -R 5:6 /srv/app && chmod 2750 /srv/app
RUN echo 2 >/srv/app/two && rm /srv/app/hidden && rm -r /srv/gone && rm -r /srv/again && mkdir /srv/again \\
    && touch -d @1000000000 /srv/app/deep && mknod /srv/app/pipe p
RUN echo 3 >/srv/again/new && echo more >>/srv/app/one && touch -d @1234567890 /srv/app
FROM busybox
"""
LOOK = "(cd /seen && find . | sort | xargs stat -c '%n %a %u %g %h %F %s %Y' && find . -type f | sort | xargs cat)"


@pytest.mark.parametrize("source", ["/srv", "/srv/app", "/srv/link", "/srv/again", "srv/app/deep/"])
@pytest.mark.ids("gives files away")
def test_bind_of_another_stage_shows_it_as_it_is(store: Pybuild, context: Path, source: str) -> None:
    """Of each file all that stat tells, but for the sizes and links of directories."""
    look = LOOK.replace("find .", "find . ! -type d")
    directories = "stat -c '%a %u %g %Y' /seen/ /seen/*/ 2>/dev/null || true"
    build(
        store,
        context,
        MERGED.replace(
            "FROM busybox\n", f"RUN ln -s {source} /seen; {look} >/inside; ({directories}) >>/inside\nFROM busybox\n", 2
        )
        + f"RUN --mount=from=other,source={source},target=/seen {look} >/outside; ({directories}) >>/outside\n"
        + "COPY --from=other /inside /\n"
        + "RUN cmp /inside /outside && test -s /inside\n"
        "RUN --mount=from=other,target=/all test -f /all/srv/app/two && test -x /all/bin/sh && ! test -e /all/srv/gone\n",
    )


@pytest.mark.ids("gives files away")
def test_bind_of_another_stage_that_may_be_written(store: Pybuild, context: Path, tmp_path: Path) -> None:
    build(
        store,
        context,
        MERGED + "RUN --mount=from=other,source=/srv,target=/s,rw stat -c '%a %u %g %Y' /s /s/app >/before;"
        " echo x >/s/app/new && rm /s/file && echo y >>/s/app/one && mv /s/app/two /s/again/ && ls /s/again >/listed"
        " && touch -d @1 /s/app/deep\n"
        "RUN --mount=from=other,source=/srv,target=/s stat -c '%a %u %g %Y' /s /s/app | cmp - /before"
        " && test -f /s/file && test ! -e /s/app/new && ! touch /s/x && ! touch /s/app/one\n"
        "RUN --mount=from=other,source=/srv/file,target=/f grep file /f && ! touch /f\n"
        "RUN --mount=from=other,source=/srv/file,target=/f,rw echo x >>/f && grep x /f\n"
        "RUN --mount=from=other,source=/srv/file,target=/f ! grep x /f\n"
        "RUN printf 'new\\ntwo\\n' | cmp - /listed\n",
    )
    assert not [name for name in names_in_layers(store, tmp_path) if name.startswith(("s/", "f"))]


@pytest.mark.ids("gives files away")
def test_a_failed_step_keeps_what_it_had_bound(store: Pybuild, context: Path) -> None:
    line = "RUN --mount=from=other,source=/srv,target=/s,rw --mount=from=other,source=/srv/file,target=/f echo x >/s/new; false"
    (context / "Dockerfile").write_text(f"{MERGED}{line}\n")
    assert store.attempt("build", "-t", "mounted", context).returncode == 1
    shown = subprocess.run(
        store.command("shell"), env=store.environment(), input="cat /s/app/one /f; touch /s/app/x && echo can\n",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout == "1\nmore\nfile\ncan\n"


def test_a_changed_file_that_is_bound_misses(store: Pybuild, context: Path) -> None:
    dockerfile = "FROM busybox\nRUN --mount=type=bind,source=src,target=/src cat /src/file > /copy\n"
    build(store, context, dockerfile)
    assert set(step_outcomes(build(store, context, dockerfile)).values()) == {"CACHED"}
    (context / "src" / "file").write_text("changed\n")
    assert "DONE" in step_outcomes(build(store, context, dockerfile)).values()
    assert store.run("run", "mounted", "cat", "/copy").stdout == "changed\n"


def test_a_context_that_changes_while_the_step_runs_is_known_as_the_step_saw_it(store: Pybuild, context: Path) -> None:
    dockerfile = "FROM busybox\nRUN --mount=target=/src,source=src cat /src/file > /copy; echo seen; sleep 2\n"
    (context / "Dockerfile").write_text(dockerfile)
    with started(store, "build", "--progress", "plain", "-t", "mounted", context) as running:
        assert running.stderr is not None
        while not next(running.stderr).rstrip().endswith(" seen"):
            pass
        (context / "src" / "file").write_text("of later\n")
        running.stderr.read()
    assert running.returncode == 0
    build(store, context, dockerfile)
    assert store.run("run", "mounted", "cat", "/copy").stdout == "of later\n"


def test_a_context_that_changes_before_it_is_mounted_is_refused(store: Pybuild, context: Path, tmp_path: Path) -> None:
    """The secret is read when the key of the step is known, and before the context is copied for it."""
    os.mkfifo(tmp_path / "secret")
    (context / "Dockerfile").write_text(
        "FROM busybox\nRUN --mount=type=secret,id=s --mount=target=/src,source=src cat /src/file > /copy\n"
    )
    secret = f"id=s,src={tmp_path / 'secret'}"
    with started(store, "build", "--secret", secret, context) as running:
        with open(tmp_path / "secret", "w") as told:
            (context / "src" / "file").write_text("of later\n")
            told.write("words")
        assert running.stderr is not None
        assert "the build context changed while it was copied" in running.stderr.read()
    assert running.returncode == 1


@pytest.mark.ids("gives mounts to others")
def test_cache_keeps_its_content_and_is_in_no_layer(store: Pybuild, context: Path, tmp_path: Path) -> None:
    line = "RUN --mount=type=cache,target=/c,mode=0700,uid=5 echo x >> /c/n; stat -c '%a %u' /c > /m; wc -l < /c/n > /r"
    build(store, context, f"FROM busybox\n{line}\n")
    build(store, context, f"FROM busybox\nENV AGAIN=1\n{line}\n")
    assert store.run("run", "mounted", "cat", "/r", "/m").stdout == "2\n700 5\n"
    assert not names_in_layers(store, tmp_path) & {"c/", "c/n"}


def test_private_caches_are_apart_while_in_use_and_locked_ones_in_turn(store: Pybuild, context: Path) -> None:
    stages = "".join(
        f"FROM busybox AS s{number}\n"
        f"RUN --mount=type=cache,target=/p,sharing=private test ! -e /p/busy && touch /p/busy && sleep 1 && rm /p/busy\n"
        f"RUN --mount=type=cache,target=/l,sharing=locked test ! -e /l/busy && touch /l/busy && sleep 1 && rm /l/busy"
        f" && echo {number} > /done\n"
        for number in range(2)
    )
    build(store, context, stages + "FROM busybox\nCOPY --from=s0 /done /0\nCOPY --from=s1 /done /1\n")


@pytest.mark.ids("gives mounts to others")
def test_cache_by_id_seeded_and_for_reading(store: Pybuild, context: Path, tmp_path: Path) -> None:
    """One id, mode and owner are one directory wherever it is mounted; ``from`` and ``source`` fill a new one; ``ro``
    keeps writes out."""
    build(
        store,
        context,
        "FROM busybox AS seed\nRUN mkdir -p /s/sub && echo seed > /s/sub/file\n"
        "FROM busybox\n"
        "RUN --mount=type=cache,id=one,target=/a,from=seed,source=/s/sub,uid=7,gid=8,mode=0750"
        " stat -c '%a %u %g' /a | grep '750 7 8' && grep seed /a/file && echo more > /a/more\n"
        "RUN --mount=type=cache,id=one,target=/b,uid=7,gid=8,mode=0750 test -e /b/more\n"
        "RUN --mount=type=cache,id=one,target=/b,uid=7,gid=8,mode=0750,ro test -e /b/more && ! touch /b/x\n"
        "RUN --mount=type=cache,id=one,target=/b test ! -e /b/more\n"
        "RUN --mount=type=cache,id=two,target=/b test ! -e /b/more\n"
        "RUN --mount=type=cache,target=/c echo c > /c/own && true\n"
        "RUN --mount=type=cache,id=/c,target=/d test -e /d/own\n",
    )
    assert not names_in_layers(store, tmp_path) & {"a", "a/", "b/", "c/", "d/", "b/more"}


def test_shared_caches_are_used_at_the_same_time(store: Pybuild, context: Path) -> None:
    """Each stage waits in its step for what the other one writes."""
    stages = "".join(
        f"FROM busybox AS s{number}\n"
        f"RUN --mount=type=cache,id=meeting,target=/m,sharing=shared touch /m/{number};"
        f" for i in $(seq 300); do test -e /m/{1 - number} && break; sleep 0.1; done; test -e /m/{1 - number} && touch /done\n"
        for number in range(2)
    )
    build(store, context, stages + "FROM busybox\nCOPY --from=s0 /done /0\nCOPY --from=s1 /done /1\n", "--jobs", "2")


@pytest.mark.ids("gives mounts to others")
def test_every_kind_in_one_step(store: Pybuild, context: Path, tmp_path: Path) -> None:
    """What each mount is, read back from inside, and that none of them is in the layer."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    log = build(
        store,
        context,
        "FROM busybox\n"
        "RUN --mount=target=/bind --mount=type=cache,target=/cache --mount=type=tmpfs,target=/tmpfs,size=4m"
        " --mount=type=secret,id=s,target=/secret,env=WORDS --mount=type=secret,id=s,target=/run/other,mode=0440,gid=9"
        ' printf %s "$WORDS" | cmp - /secret && stat -c "%a %g" /run/other;'
        " awk '$5 ~ /^.(bind|cache|tmpfs|secret|run.other)$/ {print $5, $6}' /proc/self/mountinfo | sort\n",
        *("--secret", f"id=s,src={secret}"),
    )
    told = [line.split(" ", 2)[2] for line in log.splitlines() if re.match(r"#\d+ [0-9.]+ /", line)]
    options = {line.split()[0]: set(line.split()[1].split(",")) for line in told}
    assert "440 9" in log
    assert options.keys() == {"/bind", "/cache", "/tmpfs", "/secret", "/run/other"}
    for target, found in options.items():
        assert {"nosuid", "nodev"} <= found, target
        assert ("ro" in found) == (target in {"/bind", "/secret", "/run/other"}), target
    assert {"noexec"} <= options["/secret"]
    assert names_in_layers(store, tmp_path) <= {"./", "."}


def test_tmpfs_is_fresh_and_sized(store: Pybuild, context: Path, tmp_path: Path) -> None:
    build(
        store,
        context,
        "FROM busybox\nRUN --mount=type=tmpfs,target=/t,size=1m touch /t/x && df -k /t | grep -w 1024\n",
    )
    assert not names_in_layers(store, tmp_path) & {"t/", "t/x"}


@pytest.mark.ids("gives mounts to others")
def test_secret_is_in_no_layer_cache_or_log(store: Pybuild, context: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    dockerfile = (
        "FROM busybox\n"
        "RUN --mount=type=secret,id=s stat -c '%a %u' /run/secrets/s | grep '400 0' && wc -c < /run/secrets/s > /n\n"
        "RUN --mount=type=secret,id=s,target=/etc/s,mode=0444,uid=7 stat -c '%a %u' /etc/s | grep '444 7'\n"
        'RUN --mount=type=secret,id=s,env=WORDS test "${#WORDS}" = 17\n'
        "RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent\n"
    )
    log = build(store, context, dockerfile, "--secret", f"id=s,src={secret}")
    assert SECRET not in log
    found = subprocess.run(["grep", "-rlF", SECRET, store.root], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    assert not {name for name in names_in_layers(store, tmp_path) if "secrets" in name}
    secret.write_text("another value that is longer")
    again = build(store, context, dockerfile, "--secret", f"id=s,src={secret}")
    assert set(step_outcomes(again).values()) == {"CACHED"}


def test_required_secret_that_is_not_given_is_named(store: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nRUN --mount=type=secret,id=key,required true\n")
    done = store.attempt("build", context)
    assert done.returncode == 1
    assert ">>> RUN --mount=type=secret" in done.stderr
    assert "secret 'key' is required and was not given" in done.stderr
    assert "--secret id=key,src=FILE" in done.stderr


def test_script_in_a_here_document_runs_with_its_interpreter(store: Pybuild, context: Path, tmp_path: Path) -> None:
    log = build(
        store, context, "FROM busybox\nRUN <<EOF\n#!/bin/sh -eu\necho it is $0\nEOF\nRUN <<EOF\necho plain\nEOF\n"
    )
    assert "it is /dev/pipes/EOF" in log
    assert "plain" in log
    assert not {name for name in names_in_layers(store, tmp_path) if name.startswith("dev")}


def test_insecure_step_needs_to_be_allowed(store: Pybuild, context: Path) -> None:
    dockerfile = "# syntax=docker/dockerfile:1\nFROM busybox\nRUN --security=insecure grep CapEff /proc/self/status\n"
    (context / "Dockerfile").write_text(dockerfile)
    done = store.attempt("build", context)
    assert done.returncode == 1
    assert "--allow security.insecure" in done.stderr
    log = build(store, context, dockerfile, "--allow", "security.insecure")
    assert "CapEff:" in log
    assert "CapEff:\t00000000a80425fb" not in log, "these are the default capabilities"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """The socket of an ssh-agent that has one key."""
    path = str(tmp_path / "user-agent")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: os.path.exists(path), "the agent to listen")
        subprocess.run(["ssh-add", "-q", key], check=True, env={**os.environ, "SSH_AUTH_SOCK": path})
        yield path
        process.terminate()


@pytest.mark.ids("gives mounts to others")
def test_agent_can_be_used_and_not_changed(store: Pybuild, context: Path, tmp_path: Path, agent: str) -> None:
    """By a step of any user, through a socket with the owner and mode asked for; nothing of it stays."""
    probe = Path(__file__).parents[1] / "sandbox/probes/agent.c"
    subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Werror", "-o", context / "probe", probe], check=True)
    ask = "stat -c '%a %u %g' $SSH_AUTH_SOCK; probe"
    log = build(
        store,
        context,
        "FROM busybox\nCOPY probe /bin/\n"
        f"RUN --mount=type=ssh {ask}\n"
        f"USER 1000:1001\nRUN --mount=type=ssh,uid=1000,gid=1001,mode=0640,target=/tmp/sock {ask}\n"
        "RUN --mount=type=ssh probe 2>&1 | grep denied\n"
        'RUN --mount=type=ssh,id=other test -z "$SSH_AUTH_SOCK"\n',
        *("--ssh", f"default={agent}"),
    )
    told = [line.split(" ", 2)[2] for line in log.splitlines() if re.match(r"#\d+ [0-9.]+ ", line)]
    uses = ["list 12", "keys 1", "sign 14", "forget 5", "lock 5"]
    assert told[:13] == ["600 0 0", *uses, "640 1000 1001", *uses, "connect: Permission denied"]
    listed = subprocess.run(
        ["ssh-add", "-l"], env={**os.environ, "SSH_AUTH_SOCK": agent}, capture_output=True, text=True, check=True
    )
    assert "ED25519" in listed.stdout
    assert not {name for name in names_in_layers(store, tmp_path) if "sock" in name or "agent" in name}


def test_agent_that_is_required_and_not_given_is_named(store: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nRUN --mount=type=ssh,required true\n")
    done = store.attempt("build", context)
    assert (done.returncode, "ssh agent 'default' is required and was not given" in done.stderr) == (1, True)
    assert "--ssh default=SOCKET" in done.stderr
