"""The graph of a Dockerfile, built: what nobody needs is left out, what is independent runs side by side, a failure ends all.

Steps that shall be there at the same time wait for each other in a cache mount; nothing is timed.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.pybuild import Pybuild, step_outcomes
from harness.waiting import processes_with, wait_until

# a step leaves its name in the directory all steps see, and waits until another's is there
MEET = """RUN --mount=type=cache,id=meeting,target=/meeting \\
    touch /meeting/{me}; n=0; until test -e /meeting/{other}; do sleep 0.05; n=$((n+1)); test $n -lt 400 || exit 9; done; \\
    {then}
"""


def write(directory: Path, text: str) -> Path:
    (directory / "Dockerfile").write_text(text)
    return directory


def test_stages_that_nothing_needs_are_not_built(small: Pybuild, tmp_path: Path) -> None:
    context = write(
        tmp_path,
        "FROM busybox AS unused\nRUN exit 3\nFROM busybox AS used\nRUN echo yes >/used\n"
        "FROM absent.invalid/base AS unreachable\nFROM busybox\nCOPY --from=used /used /\n",
    )
    outcomes = step_outcomes(small.run("build", "--progress", "plain", "-t", "image", context).stderr)
    assert {title.partition("]")[0] for title in outcomes} == {"[used 1/2", "[used 2/2", "[stage-3 2/2"}
    assert small.run("run", "image", "cat", "/used").stdout == "yes\n"


def test_equal_steps_of_two_stages_are_run_once(small: Pybuild, tmp_path: Path) -> None:
    step = "RUN cat /proc/sys/kernel/random/uuid >/id"
    context = write(
        tmp_path,
        f"FROM busybox AS a\n{step}\nRUN mv /id /a\nFROM busybox AS b\n{step}\nRUN mv /id /b\n"
        "FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
    )
    said = small.run("build", "--progress", "plain", "-t", "image", context).stderr
    assert len(set(re.findall(r"^#\d+ \[.*random/uuid.*", said, re.MULTILINE))) == 1
    assert small.run("run", "image", "cmp", "/a", "/b").returncode == 0


def test_independent_steps_run_at_the_same_time(small: Pybuild, tmp_path: Path) -> None:
    context = write(
        tmp_path,
        f"FROM busybox AS a\n{MEET.format(me='a', other='b', then='echo a >/a')}"
        f"FROM busybox AS b\n{MEET.format(me='b', other='a', then='echo b >/b')}"
        "FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
    )
    small.run("build", "--jobs", "2", "-t", "image", context)
    assert small.run("run", "image", "cat", "/a", "/b").stdout == "a\nb\n"


def test_no_more_steps_than_jobs_run_at_the_same_time(small: Pybuild, tmp_path: Path) -> None:
    alone = "RUN --mount=type=cache,id=alone,target=/alone mkdir /alone/here && sleep 0.1 && rmdir /alone/here"
    stages = "".join(f"FROM busybox AS s{n}\n{alone} && echo {n} >/s{n}\n" for n in range(4))
    copies = "".join(f"COPY --from=s{n} /s{n} /\n" for n in range(4))
    small.run("build", "--jobs", "1", write(tmp_path, f"{stages}FROM busybox\n{copies}"))


def test_one_that_fails_stops_the_others_and_is_named(small: Pybuild, tmp_path: Path) -> None:
    word = f"sleeper{tmp_path.name}{small.root.stat().st_ino}"
    context = write(
        tmp_path,
        f"FROM busybox AS fails\n{MEET.format(me='fails', other='hangs', then='echo last words; exit 7')}"
        "FROM busybox AS hangs\n"
        + MEET.format(me="hangs", other="fails", then=f"(setsid sh -c 'sleep 1000; : {word}' &); sleep 1000; : {word}")
        + "FROM busybox\nCOPY --from=fails /x /\nCOPY --from=hangs /y /\n",
    )
    done = small.attempt("build", "--progress", "plain", "-t", "image", context)
    assert done.returncode == 7, done.stderr
    wait_until(lambda: not processes_with(word), "the processes of the other step to end")
    ends = step_outcomes(done.stderr)
    assert {title[1:6]: end for title, end in ends.items() if end not in {"DONE", "CACHED"}} == {
        "fails": "ERROR",
        "hangs": "CANCELED",
    }
    message = done.stderr.rpartition("CANCELED")[2]
    assert re.search(r"Dockerfile:2[\s\S]*>>> RUN[\s\S]*last words[\s\S]*exit code: 7", message), message
    assert small.attempt("inspect", "image").returncode != 0
    small.run("build", "--target", "after", write(tmp_path, "FROM busybox AS after\nRUN true\n"))


def test_target_is_the_last_stage_that_is_built(small: Pybuild, tmp_path: Path) -> None:
    context = write(
        tmp_path,
        "FROM busybox AS first\nRUN echo x >/first\nFROM first AS second\nRUN echo y >/second\n"
        "FROM second\nRUN exit 3\n",
    )
    for target, made in (("first", {"first"}), ("FIRST", {"first"}), ("0", {"first"}), ("1", {"first", "second"})):
        small.run("build", "--target", target, "-t", "image", context)
        assert {"first", "second"} & set(small.run("run", "image", "ls", "/").stdout.split()) == made
